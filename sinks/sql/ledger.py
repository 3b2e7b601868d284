"""The write ledger: one row per request id with its outcome, in the target database and in the data's transaction."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, Text, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from write_batcher.models import Outcome
from write_batcher.sinks.sql.dialect import Dialect
from write_batcher.sinks.sql.ledger_row import LedgerRow

# Per statement: SQLITE_MAX_VARIABLE_NUMBER, sqlite.org/limits.html. PostgreSQL's protocol allows 65,535. SQLAlchemy
# splits multi-row inserts itself; selects are split here.
MAX_BOUND_PARAMETERS = 32_766
PRUNE_ROWS = 1_000  # deleted in one transaction: a batch that has to wait for it hardly notices

LEDGER = Table(
    "write_batcher_ledger",
    MetaData(),
    Column("request_id", Text, primary_key=True),
    Column("record_hash", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("batch_id", Text),
    Column("workflow_id", Text),
    Column("attempt", Text),
    Column("asked_ms", BigInteger),
    Column("error", Text),
    Column("written_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)


async def claim(
    connection: AsyncConnection, dialect: Dialect, rows: Collection[LedgerRow]
) -> tuple[set[str], dict[str, LedgerRow]]:
    """Insert the rows whose request id is new. Returns their ids, and the ledger's rows for the other ids.

    Waits for another transaction that is inserting one of the ids. Where the database locks rows, existing rows stay
    locked until the transaction ends.
    """
    claimed: set[str] = set()
    known: dict[str, LedgerRow] = {}
    missing = {row.request_id: row for row in rows}
    # A second round is needed only when a row was deleted between the two statements.
    while missing:
        claimed |= await _insert_new(connection, dialect, missing.values())
        known |= await _find(connection, missing.keys() - claimed)
        missing = {name: row for name, row in missing.items() if name not in claimed and name not in known}
    return claimed, known


async def replace_rows(connection: AsyncConnection, dialect: Dialect, rows: Iterable[LedgerRow]) -> None:
    """Overwrite the rows with the same request ids."""
    insert = dialect.insert(LEDGER)
    changed: dict[str, Any] = {
        column.name: insert.excluded[column.name] for column in LEDGER.columns if not column.primary_key
    }
    changed["written_at"] = func.now()
    await connection.execute(
        insert.on_conflict_do_update(index_elements=[LEDGER.c.request_id], set_=changed), _parameters(rows)
    )


async def forget_rejected(
    connection: AsyncConnection, dialect: Dialect, request_id: str, attempt: str | None, asked_ms: int | None
) -> bool:
    """Release `attempt`, which asked at `asked_ms`, from the rejection of this request id; other attempts that were
    rejected stay bound. Returns False when the id is not rejected or not in the ledger.
    """
    row = (await _find(connection, [request_id])).get(request_id)
    if row is None or row.outcome is not Outcome.REJECTED:
        return False
    others = [other for other in row.attempts if other.name not in (None, attempt)]
    if others:
        workflows = {known.workflow_id for known in row.attempts if known.name == attempt}
        bound = tuple(
            other if workflows and other.workflow_id not in workflows else other.released_from(asked_ms)
            for other in others
        )
        await replace_rows(connection, dialect, [replace(row, attempts=bound)])
    else:
        await connection.execute(delete(LEDGER).where(LEDGER.c.request_id == request_id))
    return True


async def prune(connection: AsyncConnection, dialect: Dialect, older_than: timedelta, now: datetime) -> int:
    """Delete up to `PRUNE_ROWS` rows that are older than `older_than` both by the database's clock and at `now` (UTC).
    Returns how many. Rows that another transaction has locked stay.
    """
    old = (
        select(LEDGER.c.request_id)
        .where(LEDGER.c.written_at < dialect.older_than(older_than))
        .where(LEDGER.c.written_at < now - older_than)
        .limit(PRUNE_ROWS)
        .with_for_update(skip_locked=True)
    )
    return (await connection.execute(delete(LEDGER).where(LEDGER.c.request_id.in_(old)))).rowcount


async def _insert_new(connection: AsyncConnection, dialect: Dialect, rows: Iterable[LedgerRow]) -> set[str]:
    insert = dialect.insert(LEDGER).on_conflict_do_nothing(index_elements=[LEDGER.c.request_id])
    result = await connection.execute(insert.returning(LEDGER.c.request_id), _parameters(rows))
    return set(result.scalars())


async def _find(connection: AsyncConnection, request_ids: Iterable[str]) -> dict[str, LedgerRow]:
    wanted = sorted(request_ids)
    columns = [column for column in LEDGER.columns if column is not LEDGER.c.written_at]
    query = select(*columns).order_by(LEDGER.c.request_id).with_for_update()
    found: dict[str, LedgerRow] = {}
    for start in range(0, len(wanted), MAX_BOUND_PARAMETERS):
        chunk = wanted[start : start + MAX_BOUND_PARAMETERS]
        result = await connection.execute(query.where(LEDGER.c.request_id.in_(chunk)))
        for columns_of_row in result.mappings():
            row = LedgerRow.from_columns(columns_of_row)
            found[row.request_id] = row
    return found


def _parameters(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    # Always in the order of the ids: two transactions that insert the same ids in opposite orders would deadlock.
    return [row.columns() for row in sorted(rows, key=lambda row: row.request_id)]
