"""The default sink: SQL, exactly once through the write ledger."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Hashable, Iterable, Mapping, Sequence
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
from write_batcher.sinks.sql.database_url import parse
from write_batcher.sinks.sql.dialect import Dialect, Refusal, shown
from write_batcher.sinks.sql.inserts import insert_records
from write_batcher.sinks.sql.ledger import LedgerRow
from write_batcher.sinks.sql.records import RecordCheck, printable
from write_batcher.sinks.sql.tables import CheckedRecord, TargetTable, prepare_tables

WRITE_LIMIT = timedelta(seconds=45)
"""For a batch where a database can be cut off; below what the drain grants, so that it learns why."""

SETTLE_LIMIT = timedelta(seconds=10)
"""For one question about one request: its caller waits, and asks again."""

CUT_OFF_WITHIN = timedelta(seconds=1)
"""For the database to end a statement when it is told to. Then the connection is closed under it."""

ALIKE = 10
"""From so many records on, a batch that the database refuses as a whole with one code is the table's fault: a dropped
default, a broken trigger. It is held, as in an outage, and nobody is rejected. Fewer may well be all bad by chance, and
must not hold up the partition for ever; nor must records whose keys are taken, which no repair of the table lets in."""

CURE = "Repair the table, or cancel the workflows that wait: they withdraw their records."

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """The ledger row a request will have unless the database decides otherwise, and its record.

    The record is None when it was refused before.
    """

    row: LedgerRow
    record: CheckedRecord | None = None

    def refused(self, error: str) -> Self:
        return replace(self, row=replace(self.row, outcome=Outcome.REJECTED, error=error), record=None)


class SqlSink:
    """Writes each batch in one transaction: a request id changes the target tables at most once, ever."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect, tables: Iterable[TargetTable]) -> None:
        """`open` is the usual way in: it prepares the engine, the ledger and the tables."""
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
        """Connect, make the ledger and the tables of `create` where they are missing, look up the target tables; close
        at the end.

        Names are read from the database; a `Table` is used as it is. Records of `orders` are inserted, those of
        `orders:upsert` or `TargetTable(table=orders, upsert=True)` update the row that has their primary key, if there
        is one. Raises `ConfigurationError` for an
        address or a table that is wrong, `SinkUnavailable` for a database that is busy.
        """
        url, dialect = parse(database_url)
        engine = dialect.create_engine(url)
        try:
            try:
                async with engine.begin() as connection:
                    targets = await connection.run_sync(prepare_tables, dialect, tables, create)
            except (SQLAlchemyError, OSError) as error:
                why = dialect.reason_of(error)
                if isinstance(error, DBAPIError) and dialect.is_busy(error):
                    raise SinkUnavailable(f"Database {shown(url)} is busy: {why}.") from error
                raise ConfigurationError(
                    f"Database {shown(url)} cannot be opened: {why}; check its address and permissions."
                ) from error
            yield cls(engine, dialect, targets)
        finally:
            await engine.dispose()

    @staticmethod
    def backend_of(database_url: str) -> str:
        """SQLAlchemy's name of the kind of database, such as `sqlite`. Raises `ConfigurationError` as `open` does."""
        url, _dialect = parse(database_url)
        return url.get_backend_name()

    async def close(self) -> None:
        await self._engine.dispose()

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        """See `Sink.write`. A batch that the database refuses only at COMMIT is written in several transactions.

        Cancelled, it ends its transaction first, which takes up to 45 s.
        """
        receipts: dict[str, WriteReceipt] = {}
        items: list[_Item] = []
        for request in batch.requests:
            try:
                items.append(self._check(request, batch.batch_id))
            except InvalidRequest as error:
                receipts[request.request_id] = _invalid(request, batch.batch_id, error)
        if items:
            receipts |= await self._ask(self._write(items), WRITE_LIMIT)
        return [receipts[request.request_id] for request in batch.requests]

    async def settle(self, request: WriteRequest, *, refused: str | None = None) -> WriteReceipt:
        """See `Sink.settle`. Takes up to 10 s."""
        try:
            row = LedgerRow.of(request, outcome=Outcome.WITHDRAWN, batch_id=None)
        except InvalidRequest as error:
            return _invalid(request, None, error)
        if refused is not None:
            row = replace(row, outcome=Outcome.REJECTED, error=printable(refused))
        return await self._ask(self._settle(row), SETTLE_LIMIT)

    async def forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
        """Let a rejected request be written also by the attempt that asked then and got the rejection. False when it
        was not rejected.

        Raises `SinkUnavailable`.
        """
        return await self._ask(self._forget_rejection(request_id, attempt, asked_ms), SETTLE_LIMIT)

    async def prune(self, older_than: timedelta, *, now: datetime | None = None) -> int:
        """Delete ledger rows of that age, and return how many. They must be so old also by the clock that says `now`,
        or else by that of this process: one clock that jumps ahead deletes nothing.

        A request as old as that must never be written again: nothing remembers it. Raises `SinkUnavailable`.
        """
        total = 0
        now = (now or datetime.now(UTC)).astimezone(UTC)
        while True:
            deleted = await self._ask(self._prune(older_than, now), WRITE_LIMIT)
            total += deleted
            if deleted < ledger.PRUNE_ROWS:
                return total

    def _check(self, request: WriteRequest, batch_id: str) -> _Item:
        """Raises `InvalidRequest` for what the ledger cannot hold; other refusals are for the ledger to keep."""
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

    async def _ask(self, work: Coroutine[Any, Any, T], limit: timedelta) -> T:
        """The answer of the database. Raises `SinkUnavailable` when it cannot give one."""
        try:
            limited = _limited(work, limit if self._dialect.cancellable else None)
            return await shielded(limited, name="write-batcher-transaction")
        except (SQLAlchemyError, OSError) as error:
            why = self._dialect.reason_of(error)
            raise SinkUnavailable(f"Database {shown(self._engine.url)} cannot be written: {why}.") from error

    async def _write(self, items: list[_Item]) -> dict[str, WriteReceipt]:
        receipts, refusals = await self._write_by_halves(items)
        if refusals:
            _hold_if_alike(self._dialect, refusals, len(items))
            refused = [
                item.refused(refusals[item.row.request_id].text) for item in items if item.row.request_id in refusals
            ]
            async with self._engine.begin() as connection:
                receipts |= await self._write_in_transaction(connection, refused)
        return receipts

    async def _write_by_halves(self, items: list[_Item]) -> tuple[dict[str, WriteReceipt], dict[str, Refusal]]:
        """A deferred constraint is checked by COMMIT, where no savepoint is left to tell the records apart."""
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
        _hold_if_doubtful(refusals, records)
        _hold_if_alike(self._dialect, refusals, len(records))
        changed: list[LedgerRow] = []
        for item in outstanding:
            request_id = item.row.request_id
            row = item.refused(refusals[request_id].text).row if request_id in refusals else item.row
            receipts[request_id] = row.receipt()
            if row.outcome is not Outcome.WRITTEN or request_id not in claimed:
                changed.append(row.after(known.get(request_id)))
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
                await ledger.replace_rows(connection, self._dialect, [row.after(earlier)])
            return row.receipt()

    async def _forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
        async with self._engine.begin() as connection:
            return await ledger.forget_rejected(connection, self._dialect, request_id, attempt, asked_ms)

    async def _prune(self, older_than: timedelta, now: datetime) -> int:
        async with self._engine.begin() as connection:
            return await ledger.prune(connection, self._dialect, older_than, now)


def _hold_if_alike(dialect: Dialect, refusals: Mapping[str, Refusal], asked: int) -> None:
    """Raise `SinkUnavailable` when the table rather than its records must be at fault."""
    if len(refusals) < max(asked, ALIKE):
        return
    codes = {refusal.code for refusal in refusals.values()}
    if len(codes) == 1 and None not in codes and not codes & dialect.taken_key_codes:
        (code,), text = codes, next(iter(refusals.values())).text
        raise SinkUnavailable(f"All {asked} records of a batch are refused alike ({code}): {text}. {CURE}")


def _hold_if_doubtful(refusals: Mapping[str, Refusal], records: Iterable[CheckedRecord]) -> None:
    """Raise `SinkUnavailable` when a record may be innocent: no other one like it shows that its table is in order. An
    upsert shows nothing: one inserts, the next updates.
    """
    if all(refusal.certain for refusal in refusals.values()):
        return
    proven = {_likeness(record) for record in records if record.request_id not in refusals and not record.target.upsert}
    for record in records:
        refusal = refusals.get(record.request_id)
        if refusal is not None and not refusal.certain and _likeness(record) not in proven:
            raise SinkUnavailable(
                f"Either {record.target.table.fullname} or a record for it is at fault ({refusal.code}): "
                f"{refusal.text}. {CURE}"
            )


def _likeness(record: CheckedRecord) -> Hashable:
    """Equal for records that the database inserts by the same permissions and keys: NULL refers to nothing."""
    return record.shape, frozenset(name for name, value in record.values.items() if value is None)


def _invalid(request: WriteRequest, batch_id: str | None, error: InvalidRequest) -> WriteReceipt:
    return WriteReceipt(
        request_id=request.request_id,
        outcome=Outcome.REJECTED,
        batch_id=batch_id,
        error=printable(str(error)),
        attempt=request.attempt,
    )


async def _limited(work: Coroutine[Any, Any, T], limit: timedelta | None) -> T:
    """The result of `work`, which is cut off at the limit. Raises TimeoutError then."""
    task = asyncio.create_task(work)
    await asyncio.wait([task], timeout=limit.total_seconds() if limit else None)
    if limit is None or task.done():
        return task.result()
    # The first time asks the server to end the statement, the second no longer waits for that.
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CUT_OFF_WITHIN.total_seconds())
    try:
        return task.result()
    except (asyncio.CancelledError, SQLAlchemyError, OSError) as error:
        raise TimeoutError(f"no answer within {limit.total_seconds():g} s") from error
