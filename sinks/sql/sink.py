"""The default sink: a SQL database, exactly once through the write ledger."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from write_batcher.errors import ConfigurationError, InvalidRequest, SinkUnavailable
from write_batcher.models import Batch, Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.shielding import shielded
from write_batcher.sinks.sql import ledger
from write_batcher.sinks.sql.database_url import parse_database_url
from write_batcher.sinks.sql.dialect import Dialect, Refusal, redacted
from write_batcher.sinks.sql.inserts import insert_records
from write_batcher.sinks.sql.ledger_row import LedgerRow
from write_batcher.sinks.sql.records import RecordCheck, printable
from write_batcher.sinks.sql.table_faults import hold_if_all_refused_alike, hold_if_ambiguous
from write_batcher.sinks.sql.tables import CheckedRecord, TargetTable, prepare_tables

# For one batch, where a statement can be cancelled. Below the drain's own limit, so that the drain learns the reason.
WRITE_LIMIT = timedelta(seconds=45)
SETTLE_LIMIT = timedelta(seconds=10)  # for one request: its caller waits, and asks again
CANCEL_GRACE = timedelta(seconds=1)  # for the database to end a cancelled statement; then the connection is closed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """A request on its way into the database."""

    row: LedgerRow
    """The ledger row that it gets unless the database decides otherwise."""
    record: CheckedRecord | None = None
    """None when it is refused already."""

    def refused(self, error: str) -> Self:
        return replace(self, row=replace(self.row, outcome=Outcome.REJECTED, error=error), record=None)


class SqlSink:
    """A sink that writes each batch in one transaction: a request id changes the target tables at most once, ever."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect, tables: Iterable[TargetTable]) -> None:
        """Use `open` instead, which prepares the engine, the ledger and the tables."""
        self._engine = engine
        self._dialect = dialect
        self._targets = {
            target.table.fullname: (target, RecordCheck(target.table, key=target.key)) for target in tables
        }

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database_url: str, *, tables: Sequence[str | Table | TargetTable], create: Sequence[Table] = ()
    ) -> AsyncIterator[Self]:
        """Connect, create the ledger and the tables of `create` where they are missing, and yield a sink for `tables`;
        close it at the end.

        `database_url` is a SQLAlchemy URL with the driver `sqlite+aiosqlite` or `postgresql+psycopg`. A table given by
        name must exist and its columns are read from the database; a `Table` is used as it is. Records for `orders` are
        inserted; records for `orders:upsert` or `TargetTable(table=orders, upsert=True)` update the row with their
        primary key if there is one.

        Raises `ConfigurationError` when the URL is wrong, the database cannot be opened, or a table is missing or
        cannot be upserted. Raises `SinkUnavailable` when the database is busy.
        """
        url, dialect = parse_database_url(database_url)
        engine = dialect.create_engine(url)
        try:
            try:
                async with engine.begin() as connection:
                    targets = await connection.run_sync(prepare_tables, dialect, tables, create)
            except (SQLAlchemyError, OSError) as error:
                reason = dialect.reason_of(error).rstrip(".")
                if isinstance(error, DBAPIError) and dialect.is_busy(error):
                    raise SinkUnavailable(f"Database {redacted(url)} is busy: {reason}.") from error
                raise ConfigurationError(
                    f"Database {redacted(url)} cannot be opened: {reason}; check its address and permissions."
                ) from error
            yield cls(engine, dialect, targets)
        finally:
            await engine.dispose()

    @staticmethod
    def backend_of(database_url: str) -> str:
        """Return SQLAlchemy's name of the kind of database, such as `sqlite`.

        Raises `ConfigurationError` when the URL is malformed or its driver is not supported.
        """
        url, _dialect = parse_database_url(database_url)
        return url.get_backend_name()

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        """Write a batch as `Sink.write` does. A batch that the database refuses only at COMMIT is written in several
        transactions.

        When cancelled it first ends its transaction, which takes up to 45 s.
        """
        receipts: dict[str, WriteReceipt] = {}
        items: list[_Item] = []
        for request in batch.requests:
            try:
                items.append(self._check(request, batch.batch_id))
            except InvalidRequest as error:
                receipts[request.request_id] = _invalid(request, batch.batch_id, error)
        if items:
            receipts |= await self._run(self._write(items), WRITE_LIMIT)
        return [receipts[request.request_id] for request in batch.requests]

    async def settle(self, request: WriteRequest, *, refused: str | None = None) -> WriteReceipt:
        """Settle a request as `Sink.settle` does, within 10 s."""
        try:
            row = LedgerRow.of(request, outcome=Outcome.WITHDRAWN, batch_id=None)
        except InvalidRequest as error:
            return _invalid(request, None, error)
        if refused is not None:
            row = replace(row, outcome=Outcome.REJECTED, error=printable(refused))
        return await self._run(self._settle(row), SETTLE_LIMIT)

    async def forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
        """Let the attempt that was rejected, and asked at `asked_ms`, write the request after all. Returns False when
        the request is not rejected.

        `asked_ms` is in milliseconds since the epoch, by the caller's clock. Raises `SinkUnavailable` when the database
        cannot do so now.
        """
        return await self._run(self._forget_rejection(request_id, attempt, asked_ms), SETTLE_LIMIT)

    async def prune(self, older_than: timedelta, *, now: datetime | None = None) -> int:
        """Delete ledger rows that are older than `older_than`, as `PrunableSink.prune` does. Returns how many.

        The caller must never submit a request of that age again: nothing remembers its outcome, and it would be written
        twice.
        """
        total = 0
        now = (now or datetime.now(UTC)).astimezone(UTC)
        while True:
            deleted = await self._run(self._prune(older_than, now), WRITE_LIMIT)
            total += deleted
            if deleted < ledger.PRUNE_ROWS:
                return total

    def _check(self, request: WriteRequest, batch_id: str) -> _Item:
        """Raises `InvalidRequest` when the ledger cannot hold the request; it records every other refusal."""
        item = _Item(row=LedgerRow.of(request, outcome=Outcome.WRITTEN, batch_id=batch_id))
        if request.table not in self._targets:
            known = ", ".join(self._targets)
            return item.refused(printable(f"There is no table {request.table[:80]!r} to write to, only {known}."))
        target, check = self._targets[request.table]
        try:
            values = check.values(request.record)
        except InvalidRequest as error:
            return item.refused(str(error))
        return replace(item, record=CheckedRecord(request_id=request.request_id, target=target, values=values))

    async def _run(self, transaction: Coroutine[Any, Any, T], limit: timedelta) -> T:
        """Run `transaction` to its end within `limit`. Raises `SinkUnavailable` when the database fails."""
        try:
            limited = _limited(transaction, limit if self._dialect.cancellable else None)
            return await shielded(limited, name="write-batcher-transaction")
        except (SQLAlchemyError, OSError) as error:
            reason = self._dialect.reason_of(error).rstrip(".")
            raise SinkUnavailable(f"Database {redacted(self._engine.url)} cannot be written: {reason}.") from error

    async def _write(self, items: list[_Item]) -> dict[str, WriteReceipt]:
        receipts, refusals = await self._write_by_halves(items)
        if refusals:
            hold_if_all_refused_alike(self._dialect, refusals, len(items))
            refused = [
                item.refused(refusals[item.row.request_id].text) for item in items if item.row.request_id in refusals
            ]
            async with self._engine.begin() as connection:
                receipts |= await self._write_in_transaction(connection, refused)
        return receipts

    async def _write_by_halves(self, items: list[_Item]) -> tuple[dict[str, WriteReceipt], dict[str, Refusal]]:
        """Write all items in one transaction, or halve them until the bad ones are found: a deferred constraint is
        checked at COMMIT, where no savepoint is left to tell the records apart.
        """
        try:
            async with self._engine.begin() as connection:
                return await self._write_in_transaction(connection, items), {}
        except SQLAlchemyError as error:
            refusal = self._dialect.refusal(error)
            if refusal is None or not refusal.certain:
                raise
        if len(items) == 1:
            return {}, {items[0].row.request_id: refusal}
        middle = len(items) // 2
        receipts, refusals = await self._write_by_halves(items[:middle])
        more_receipts, more_refusals = await self._write_by_halves(items[middle:])
        return receipts | more_receipts, refusals | more_refusals

    async def _write_in_transaction(self, connection: AsyncConnection, items: list[_Item]) -> dict[str, WriteReceipt]:
        claimed, known = await ledger.claim(connection, self._dialect, [item.row for item in items])
        receipts: dict[str, WriteReceipt] = {}
        outstanding: list[_Item] = []
        for item in items:
            earlier = known.get(item.row.request_id)
            if earlier is not None and earlier.binds(item.row):
                receipts[item.row.request_id] = earlier.receipt_for(item.row, written_as=Outcome.DUPLICATE)
            else:
                outstanding.append(item)
        records = [item.record for item in outstanding if item.record is not None]
        refusals = await insert_records(connection, self._dialect, records)
        hold_if_ambiguous(refusals, records)
        hold_if_all_refused_alike(self._dialect, refusals, len(records))
        changed: list[LedgerRow] = []
        for item in outstanding:
            request_id = item.row.request_id
            row = item.refused(refusals[request_id].text).row if request_id in refusals else item.row
            receipts[request_id] = row.receipt()
            if row.outcome is not Outcome.WRITTEN or request_id not in claimed:
                changed.append(row.replacing(known.get(request_id)))
        if changed:
            await ledger.replace_rows(connection, self._dialect, changed)
        return receipts

    async def _settle(self, row: LedgerRow) -> WriteReceipt:
        async with self._engine.begin() as connection:
            _, known = await ledger.claim(connection, self._dialect, [row])
            earlier = known.get(row.request_id)
            if earlier is not None and earlier.binds(row):
                return earlier.receipt_for(row, written_as=Outcome.WRITTEN)
            if earlier is not None:
                await ledger.replace_rows(connection, self._dialect, [row.replacing(earlier)])
            return row.receipt()

    async def _forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
        async with self._engine.begin() as connection:
            return await ledger.forget_rejected(connection, self._dialect, request_id, attempt, asked_ms)

    async def _prune(self, older_than: timedelta, now: datetime) -> int:
        async with self._engine.begin() as connection:
            return await ledger.prune(connection, self._dialect, older_than, now)


def _invalid(request: WriteRequest, batch_id: str | None, error: InvalidRequest) -> WriteReceipt:
    return WriteReceipt(
        request_id=request.request_id,
        outcome=Outcome.REJECTED,
        batch_id=batch_id,
        error=printable(str(error)),
        attempt=request.attempt,
    )


async def _limited(work: Coroutine[Any, Any, T], limit: timedelta | None) -> T:
    """Run `work`, cancelled at the limit. Raises `TimeoutError` then."""
    task = asyncio.create_task(work)
    await asyncio.wait([task], timeout=limit.total_seconds() if limit else None)
    if limit is None or task.done():
        return task.result()
    # The first cancellation asks the server to end the statement, the second one no longer waits for that.
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_GRACE.total_seconds())
    try:
        return task.result()
    except (asyncio.CancelledError, SQLAlchemyError, OSError) as error:
        raise TimeoutError(f"no answer within {limit.total_seconds():g} s") from error
