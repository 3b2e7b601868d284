"""The write ledger: one row per request id with its outcome, in the target database and in the data's transaction."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import case, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from write_batcher.models import Outcome, WriteRequest
from write_batcher.sinks.sql.bulk_insert import BulkInsert
from write_batcher.sinks.sql.dialect import Dialect
from write_batcher.sinks.sql.ledger_row import Decision, LedgerRow, storable_ms
from write_batcher.sinks.sql.schema import LEDGER

# Per statement: SQLITE_MAX_VARIABLE_NUMBER, sqlite.org/limits.html. PostgreSQL's protocol allows 65,535. SQLAlchemy
# splits multi-row inserts itself; what has IN (...) is split here.
MAX_BOUND_PARAMETERS = 32_766
PRUNE_ROWS = 1_000  # deleted in one transaction: a batch that has to wait for it hardly notices

READ_COLUMNS = [column for column in LEDGER.columns if column.name not in ("returned", "expires_at")]
KEY = [LEDGER.c.queue, LEDGER.c.request_id]
WRITTEN = Outcome.WRITTEN.value


class Ledger:
    """The ledger's rows of one queue, within one transaction."""

    def __init__(self, connection: AsyncConnection, dialect: Dialect, queue: str, *, expires_at: datetime) -> None:
        """What is written here is kept until `expires_at`."""
        self._connection = connection
        self._dialect = dialect
        self._queue = queue
        self._expires_at = expires_at

    async def claim(self, rows: Collection[LedgerRow]) -> tuple[set[str], dict[str, LedgerRow]]:
        """Insert the rows whose request id is new. Returns their ids, and the ledger's rows for the other ids.

        Waits for another transaction that is inserting one of the ids. Where the database locks rows, existing rows
        stay locked until the transaction ends.
        """
        claimed: set[str] = set()
        known: dict[str, LedgerRow] = {}
        missing = {row.request_id: row for row in rows}
        # A second round is needed only when a row was deleted between the two statements.
        while missing:
            claimed |= await self._insert_new(missing.values())
            known |= await self._find(missing.keys() - claimed)
            missing = {name: row for name, row in missing.items() if name not in claimed and name not in known}
        return claimed, known

    async def replace(self, rows: Collection[LedgerRow]) -> None:
        """Overwrite the rows with the same request ids. None is kept shorter than before."""
        if not rows:
            return
        insert = self._dialect.insert(LEDGER)
        changed: dict[str, Any] = {
            column.name: insert.excluded[column.name] for column in READ_COLUMNS if not column.primary_key
        }
        earlier, later = LEDGER.c.expires_at, insert.excluded.expires_at
        changed["expires_at"] = case((earlier > later, earlier), else_=later)
        await self._connection.execute(
            insert.on_conflict_do_update(index_elements=KEY, set_=changed), self._parameters(rows)
        )

    async def give_back(self, request_ids: Iterable[str]) -> None:
        """Delete rows that this transaction has claimed, because nothing has been decided about them."""
        for chunk in _chunks(request_ids):
            await self._connection.execute(
                delete(LEDGER).where(LEDGER.c.queue == self._queue).where(LEDGER.c.request_id.in_(chunk))
            )

    async def _insert_new(self, rows: Iterable[LedgerRow]) -> set[str]:
        insert = self._dialect.insert(LEDGER).on_conflict_do_nothing(index_elements=KEY)
        result = await self._connection.execute(insert.returning(LEDGER.c.request_id), self._parameters(rows))
        return set(result.scalars())

    async def _find(self, request_ids: Iterable[str]) -> dict[str, LedgerRow]:
        query = (
            select(*READ_COLUMNS).where(LEDGER.c.queue == self._queue).order_by(LEDGER.c.request_id).with_for_update()
        )
        found: dict[str, LedgerRow] = {}
        for chunk in _chunks(request_ids):
            result = await self._connection.execute(query.where(LEDGER.c.request_id.in_(chunk)))
            for columns in result.mappings():
                row = _row_from(columns)
                found[row.request_id] = row
        return found

    def _parameters(self, rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
        return values_of(rows, self._expires_at)


def values_of(rows: Iterable[LedgerRow], expires_at: datetime) -> list[dict[str, Any]]:
    """Return the values of rows that are kept until `expires_at`.

    Always in the order of the ids: two transactions that insert the same ids in opposite orders would deadlock.
    """
    expires_at = expires_at.astimezone(UTC)  # SQLite stores it without its offset
    in_order = sorted(rows, key=attrgetter("request_id"))
    return [{**_columns_of(row), "expires_at": expires_at} for row in in_order]


def values_of_written(
    requests: Iterable[WriteRequest], *, queue: str, batch_id: str, expires_at: datetime
) -> list[dict[str, Any]]:
    """Return the values, for `bulk_claim`, of the rows that `ledger_row.decided` makes of written requests, in the
    order of `values_of`.
    """
    expires_at = expires_at.astimezone(UTC)
    return [
        {
            "queue": queue,
            "request_id": request.request_id,
            "record_hash": request.record_hash,
            "outcome": WRITTEN,
            "batch_id": batch_id,
            "attempt": request.attempt,
            "asked_ms": storable_ms(request.asked_ms),
            "expires_at": expires_at,
        }
        for request in sorted(requests, key=attrgetter("request_id"))
    ]


def bulk_claim(dialect: Dialect) -> BulkInsert:
    """Return the insert of rows that say `written`, of those whose request id is new."""
    insert = dialect.insert(LEDGER).on_conflict_do_nothing(index_elements=KEY)
    columns = [column for column in READ_COLUMNS if column.name not in ("decisions", "floor_ms")]  # none when written
    return dialect.bulk_insert(insert, LEDGER, [*columns, LEDGER.c.expires_at], is_reflected=True)


async def prune(connection: AsyncConnection, *, expired_by: datetime) -> int:
    """Delete up to `PRUNE_ROWS` rows whose `expires_at` is before `expired_by`. Returns how many. Rows that another
    transaction has locked stay.
    """
    expired = (
        select(*KEY)
        .where(LEDGER.c.expires_at < expired_by.astimezone(UTC))
        .limit(PRUNE_ROWS)
        .with_for_update(skip_locked=True)
    )
    return (await connection.execute(delete(LEDGER).where(tuple_(*KEY).in_(expired)))).rowcount


def _chunks(request_ids: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(request_ids)
    size = MAX_BOUND_PARAMETERS - 1  # one is the queue
    return (ordered[start : start + size] for start in range(0, len(ordered), size))


def _columns_of(row: LedgerRow) -> dict[str, Any]:
    return {
        "queue": row.queue,
        "request_id": row.request_id,
        "record_hash": row.record_hash,
        "outcome": row.outcome.value,
        "batch_id": row.batch_id,
        "attempt": row.attempt,
        "asked_ms": row.asked_ms,
        "decisions": [asdict(decision) for decision in row.decisions] or None,
        "floor_ms": row.floor_ms,
    }


def _row_from(columns: Mapping[Any, Any]) -> LedgerRow:
    decisions = columns["decisions"] or ()
    return LedgerRow(
        queue=columns["queue"],
        request_id=columns["request_id"],
        record_hash=columns["record_hash"],
        outcome=Outcome(columns["outcome"]),
        batch_id=columns["batch_id"],
        attempt=columns["attempt"],
        asked_ms=columns["asked_ms"],
        decisions=tuple(Decision(**{**decision, "outcome": Outcome(decision["outcome"])}) for decision in decisions),
        floor_ms=columns["floor_ms"],
    )
