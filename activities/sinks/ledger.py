"""The write ledger: one row per request id with its outcome, in the target database and in the data's transaction."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Column, DateTime, MetaData, Table, Text, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateTable

from write_batcher.errors import InvalidRequest
from write_batcher.models import Outcome, WriteReceipt, WriteRequest

MAX_BOUND_PARAMETERS = 32_766
"""Per statement: SQLITE_MAX_VARIABLE_NUMBER, sqlite.org/limits.html. PostgreSQL's protocol allows 65,535.
SQLAlchemy itself keeps multi-row inserts below the limit; a select is cut here."""

MAX_ID_BYTES = 2_000
"""PostgreSQL indexes at most 2,704 bytes. Temporal's workflow ids, which request ids begin with, end at 1,000."""

LEDGER = Table(
    "write_batcher_ledger",
    MetaData(),
    Column("request_id", Text, primary_key=True),
    Column("record_hash", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("batch_id", Text, nullable=False),
    Column("run_id", Text),
    Column("error", Text),
    Column("written_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """What became of a request id. `run_id` is the run that asked, None for fire-and-forget."""

    request_id: str
    record_hash: str
    outcome: Outcome
    batch_id: str
    run_id: str | None
    error: str | None

    @classmethod
    def written(cls, request: WriteRequest, batch_id: str) -> Self:
        """The row of a request that is about to be written.

        Raises `InvalidRequest` for a request that the ledger cannot hold.
        """
        run_id = request.reply.run_id if request.reply else None
        for name, value in ("request id", request.request_id), ("run id", run_id):
            if value is not None and not _is_storable(value):
                raise InvalidRequest(
                    f"The {name} {value[:80]!r} cannot be kept: use up to {MAX_ID_BYTES} bytes of UTF-8 without NUL."
                )
        return cls(
            request_id=request.request_id,
            record_hash=record_hash(request),
            outcome=Outcome.WRITTEN,
            batch_id=batch_id,
            run_id=run_id,
            error=None,
        )

    def receipt(self) -> WriteReceipt:
        return WriteReceipt(request_id=self.request_id, outcome=self.outcome, batch_id=self.batch_id, error=self.error)


def record_hash(request: WriteRequest) -> str:
    """SHA-256 over the canonical JSON of table and record, as they came. Raises `InvalidRequest` if that isn't JSON."""
    try:
        text = json.dumps([request.table, request.record], sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The record for table {request.table!r} is not JSON: {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()


async def create(connection: AsyncConnection) -> None:
    await connection.execute(CreateTable(LEDGER, if_not_exists=True))


async def claim(connection: AsyncConnection, rows: Iterable[LedgerRow]) -> set[str]:
    """Insert the rows whose request id is new, and return these ids.

    An id that another transaction has just inserted counts as known, once that transaction has committed.
    """
    insert = _insert(connection).on_conflict_do_nothing(index_elements=[LEDGER.c.request_id])
    result = await connection.execute(insert.returning(LEDGER.c.request_id), _parameters(rows))
    return set(result.scalars())


async def find(connection: AsyncConnection, request_ids: Iterable[str]) -> dict[str, LedgerRow]:
    """The rows of these request ids, locked until the transaction ends where a database locks rows."""
    wanted = sorted(request_ids)
    columns = [column for column in LEDGER.columns if column is not LEDGER.c.written_at]
    query = select(*columns).order_by(LEDGER.c.request_id).with_for_update()
    found: dict[str, LedgerRow] = {}
    for start in range(0, len(wanted), MAX_BOUND_PARAMETERS):
        chunk = wanted[start : start + MAX_BOUND_PARAMETERS]
        result = await connection.execute(query.where(LEDGER.c.request_id.in_(chunk)))
        for row in result.mappings():
            found[row["request_id"]] = LedgerRow(**{**row, "outcome": Outcome(row["outcome"])})
    return found


async def replace(connection: AsyncConnection, rows: Iterable[LedgerRow]) -> None:
    """Overwrite the rows of the same request ids."""
    insert = _insert(connection)
    changed: dict[str, Any] = {
        column.name: insert.excluded[column.name] for column in LEDGER.columns if not column.primary_key
    }
    changed["written_at"] = func.now()
    await connection.execute(
        insert.on_conflict_do_update(index_elements=[LEDGER.c.request_id], set_=changed), _parameters(rows)
    )


def _insert(connection: AsyncConnection) -> sqlite.Insert:
    return {"sqlite": sqlite.insert}[connection.dialect.name](LEDGER)


def _parameters(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    # One order for everybody: two transactions that insert the same ids in opposite orders would deadlock.
    return [
        {
            "request_id": row.request_id,
            "record_hash": row.record_hash,
            "outcome": row.outcome.value,
            "batch_id": row.batch_id,
            "run_id": row.run_id,
            "error": row.error,
        }
        for row in sorted(rows, key=lambda row: row.request_id)
    ]


def _is_storable(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_ID_BYTES and "\0" not in text
    except UnicodeEncodeError:
        return False
