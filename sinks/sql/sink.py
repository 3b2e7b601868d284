"""The default sink: a SQL database, exactly once through the write ledger."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from write_batcher.errors import ConfigurationError, InvalidRequest, SinkUnavailable
from write_batcher.models import Batch, Held, Outcome, WriteReceipt, WriteRequest
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.shielding import shielded
from write_batcher.sinks.sql import ledger
from write_batcher.sinks.sql.batch_write import BatchWrite, Item, with_followers
from write_batcher.sinks.sql.database_url import parse_database_url
from write_batcher.sinks.sql.dialect import STATEMENT_TIMEOUT, Dialect, Fault, redacted
from write_batcher.sinks.sql.ledger import Ledger
from write_batcher.sinks.sql.ledger_row import check_storable, decided, expiry, receipt_for, settled
from write_batcher.sinks.sql.ledger_setup import prepare_ledger
from write_batcher.sinks.sql.quick_write import QuickWriter
from write_batcher.sinks.sql.records import RecordCheck, printable
from write_batcher.sinks.sql.tables import CheckedRecord, TargetTable, prepare_tables
from write_batcher.sinks.sql.time_budget import TimeBudget

# For one batch, where a statement can be cancelled. Below the drain's own limit, so that the drain learns the reason.
WRITE_LIMIT = timedelta(seconds=45)
SETTLE_LIMIT = timedelta(seconds=10)  # for one request: its caller waits, and asks again
LOCK_WAIT = timedelta(seconds=1)  # of whatever is not a batch, for another transaction's lock: it is asked again
OPEN_LOCK_WAIT = timedelta(seconds=20)  # for other processes that create the tables, one after the other
CANCEL_GRACE = timedelta(seconds=1)  # for the database to end a cancelled statement; then the connection is closed
DEDUPLICATION_WINDOW = timedelta(days=7)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class SqlSink:
    """A sink that writes each batch in one transaction: a request id of a queue changes the target tables at most once
    within its deduplication window.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        dialect: Dialect,
        tables: Iterable[TargetTable],
        *,
        sink_id: str,
        deduplication_window: timedelta,
    ) -> None:
        """Use `open` instead, which prepares the engine, the ledger and the tables."""
        self._engine = engine
        self._dialect = dialect
        self._targets = {
            target.table.fullname: (target, RecordCheck(target.table, key=target.key)) for target in tables
        }
        self._window = deduplication_window
        self._quick = QuickWriter(engine, dialect, deduplication_window)
        self.sink_id = sink_id
        """A random name that is kept in the database."""

    @property
    def tables(self) -> dict[str, str]:
        """How records are written, `insert` or `upsert`, by table."""
        return {name: target.mode for name, (target, _) in self._targets.items()}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database_url: str,
        *,
        tables: Sequence[str | Table | TargetTable],
        create: Sequence[Table] = (),
        deduplication_window: timedelta = DEDUPLICATION_WINDOW,
    ) -> AsyncIterator[Self]:
        """Connect, create the ledger and the tables of `create` where they are missing, and yield a sink for `tables`;
        close it at the end.

        `database_url` is a SQLAlchemy URL with the driver `sqlite+aiosqlite` or `postgresql+psycopg`. A table given by
        name must exist and its columns are read from the database; a `Table` is used as it is. Records for `orders` are
        inserted; records for `orders:upsert` or `TargetTable(table=orders, upsert=True)` update the row with their
        primary key if there is one. For `deduplication_window` after a request was written, its id can be submitted
        again and is written no second time.

        Raises `ConfigurationError` when the URL is wrong, the database cannot be opened or holds not every text, a
        table is missing, cannot be upserted or may not be written to, or the ledger has another version or shape.
        Raises `SinkUnavailable` when the database is busy.
        """
        url, dialect = parse_database_url(database_url)
        engine = dialect.create_engine(url)
        try:
            try:
                async with engine.begin() as connection:
                    await dialect.begin(connection, lock_wait=OPEN_LOCK_WAIT)
                    targets, sink_id = await connection.run_sync(_prepare, dialect, tables, create)
            except (SQLAlchemyError, OSError) as error:
                reason = dialect.reason_of(error).rstrip(".")
                if isinstance(error, DBAPIError) and dialect.is_busy(error):
                    raise SinkUnavailable(f"Database {redacted(url)} is busy: {reason}.") from error
                raise ConfigurationError(
                    f"Database {redacted(url)} cannot be opened: {reason}; check its address and permissions."
                ) from error
            yield cls(engine, dialect, targets, sink_id=sink_id, deduplication_window=deduplication_window)
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

    async def write(self, batch: Batch) -> list[WriteReceipt | Held]:
        """Write a batch as `Sink.write` does. A batch that the database refuses only at COMMIT is written in several
        transactions.

        When cancelled it first ends its transaction, which takes up to 45 s.
        """
        answers: dict[str, WriteReceipt | Held] = {}
        items: list[Item] = []
        for request in batch.requests:
            try:
                items.append(self._checked(_storable(request, batch.queue)))
            except InvalidRequest as error:
                answers[request.request_id] = _unrecorded(request, batch.batch_id, str(error))
        if items:
            budget = TimeBudget(len(items))
            write = BatchWrite(
                self._engine,
                self._dialect,
                queue=batch.queue,
                batch_id=batch.batch_id,
                deduplication_window=self._window,
                budget=budget,
                quick=self._quick,
            )
            answers |= await self._run(write.write(items), WRITE_LIMIT, budget)
        # What follows a held request with the same key is held, even if it needs no ledger.
        held = {name: answer.reason for name, answer in answers.items() if isinstance(answer, Held)}
        if held:
            reasons = with_followers(batch.requests, held)
            answers |= {name: Held(request_id=name, reason=reason) for name, reason in reasons.items()}
        return [answers[request.request_id] for request in batch.requests]

    async def settle(self, request: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        """Settle a request as `Sink.settle` does, within 10 s."""
        try:
            request = _storable(request, queue)
        except InvalidRequest as error:
            return _unrecorded(request, None, str(error))
        outcome = Outcome.WITHDRAWN if refused is None else Outcome.REJECTED
        error_text = None if refused is None else printable(refused)
        return await self._run(self._settle(request, queue, outcome, error_text), SETTLE_LIMIT)

    async def prune(self, *, now: datetime | None = None) -> int:
        """Delete ledger rows as `PrunableSink.prune` does. Returns how many."""
        total = 0
        now = now or datetime.now(UTC)
        while True:
            deleted = await self._run(self._prune(now), WRITE_LIMIT)
            total += deleted
            if deleted < ledger.PRUNE_ROWS:
                return total

    def _checked(self, request: WriteRequest) -> Item:
        if request.table not in self._targets:
            known = ", ".join(self._targets)
            return Item(
                request=request,
                held=printable(
                    f"This batcher does not write to table {request.table[:80]!r}, only to {known}: start it with that "
                    "table, or reject the request with `write-batcher queue reject`."
                ),
            )
        target, check = self._targets[request.table]
        try:
            values = check.values(request.record)
        except InvalidRequest as error:
            return Item(request=request, refused=str(error))
        record = CheckedRecord(request_id=request.request_id, order_key=request.order_key, target=target, values=values)
        return Item(request=request, record=record)

    async def _run(self, transaction: Coroutine[Any, Any, T], limit: timedelta, budget: TimeBudget | None = None) -> T:
        """Run `transaction` to its end within `limit`. Raises `SinkUnavailable` when the database fails, and
        `BatchTooLarge` when it still answers at the limit.
        """
        try:
            limited = _limited(transaction, limit if self._dialect.cancellable else None)
            return await shielded(limited, name="write-batcher-transaction")
        except (SQLAlchemyError, OSError) as error:
            reason = self._dialect.reason_of(error).rstrip(".")
            if budget and isinstance(error, TimeoutError) and budget.has_answers_within(STATEMENT_TIMEOUT):
                raise budget.exceeded(reason) from error
            raise SinkUnavailable(f"Database {redacted(self._engine.url)} cannot be written: {reason}.") from error

    async def _settle(
        self, request: WriteRequest, queue: str, outcome: Outcome, error_text: str | None
    ) -> WriteReceipt:
        try:
            async with self._engine.begin() as connection:
                now = await self._dialect.begin(connection, lock_wait=LOCK_WAIT)
                rows = Ledger(connection, self._dialect, queue, expires_at=self._expiry(now))
                _, known = await rows.claim([decided(request, outcome, queue=queue, error=error_text)])
                if earlier := known.get(request.request_id):
                    changed, receipt = settled(request, outcome, error=error_text, earlier=earlier)
                    if changed is not None:
                        await rows.replace([changed])
                    return receipt
        except SQLAlchemyError as error:
            refusal = self._dialect.refusal(error)
            if refusal is None or refusal.fault is not Fault.RECORD:
                raise
            return _unrecorded(request, None, refusal.text)
        return receipt_for(request, outcome, error=error_text)

    async def _prune(self, now: datetime) -> int:
        async with self._engine.begin() as connection:
            database_now = await self._dialect.begin(connection, lock_wait=LOCK_WAIT)
            return await ledger.prune(connection, expired_by=min(now, database_now))

    def _expiry(self, database_now: datetime) -> datetime:
        return expiry(max(database_now, datetime.now(UTC)), self._window)


def _prepare(
    connection: Connection,
    dialect: Dialect,
    tables: Sequence[str | Table | TargetTable],
    create: Sequence[Table],
) -> tuple[list[TargetTable], str]:
    for warning in dialect.check(connection):
        logger.warning("database %s: %s", redacted(connection.engine.url), warning)
    targets = prepare_tables(connection, dialect, tables, create)
    return targets, prepare_ledger(connection, dialect)


def _storable(request: WriteRequest, queue: str) -> WriteRequest:
    """The request with the hash of its record, if there is one: nobody could decode a request without a table. Raises
    `InvalidRequest` when the ledger cannot hold it.
    """
    check_storable(request, queue)
    if request.record_hash or not request.table:
        return request
    try:
        return with_hash(request)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The record for table {request.table!r} is not JSON: {error}.") from error


def _unrecorded(request: WriteRequest, batch_id: str | None, error: str) -> WriteReceipt:
    """The answer to a request that the ledger cannot hold: it never will, and so the request is never written."""
    return receipt_for(request, Outcome.REJECTED, batch_id=batch_id, error=printable(error))


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
