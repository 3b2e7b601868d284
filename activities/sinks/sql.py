"""The default sink: SQL, exactly once through the write ledger."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import JSON, URL, Connection, MetaData, Table, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from write_batcher.activities.sinks import ledger
from write_batcher.activities.sinks.inserts import CheckedRecord, insert_records, is_item_error, reason
from write_batcher.activities.sinks.ledger import LedgerRow
from write_batcher.activities.sinks.records import RecordCheck, printable
from write_batcher.errors import ConfigurationError, InvalidRequest, SinkUnavailable
from write_batcher.models import Batch, Outcome, WriteReceipt, WriteRequest

BUSY_TIMEOUT_SECONDS = 5.0
"""How long SQLite waits for another process's write before it is busy. The drain then holds the batch."""

DRIVERS = ("sqlite+aiosqlite",)

EXAMPLE = "sqlite+aiosqlite:///path/to/file.db"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """The ledger row a request will have unless the database decides otherwise, and its record.

    The record is None when it was refused before the database was asked.
    """

    row: LedgerRow
    record: CheckedRecord | None = None

    def refused(self, error: str) -> Self:
        return replace(self, row=replace(self.row, outcome=Outcome.REJECTED, error=error), record=None)


class SqlSink:
    """Writes each batch in one transaction: a request id changes the target tables at most once, ever."""

    def __init__(self, engine: AsyncEngine, tables: Iterable[Table]) -> None:
        """`open` is the usual way in: it prepares the engine, the ledger and the tables."""
        self._engine = engine
        self._checks = {table.fullname: RecordCheck(table) for table in tables}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database_url: str, *, tables: Sequence[str | Table], create: Sequence[Table] = ()
    ) -> AsyncIterator[Self]:
        """Connect, make the ledger and the tables of `create` where they are missing, look up the target tables; close
        at the end.

        Names are read from the database; a `Table` is used as it is. Raises `ConfigurationError` for an address or
        a table that is wrong, `SinkUnavailable` for a database that is busy.
        """
        url = _parse(database_url)
        engine = _create_engine(url)
        try:
            try:
                async with engine.begin() as connection:
                    for table in create:
                        await connection.run_sync(table.create, checkfirst=True)
                    found = await connection.run_sync(_load_tables, tables)
                    await ledger.create(connection)
            except (SQLAlchemyError, OSError) as error:
                if _is_busy(error):
                    raise SinkUnavailable(f"Database {_shown(url)} is busy: {reason(error)}.") from error
                raise ConfigurationError(
                    f"Database {_shown(url)} cannot be opened: {reason(error)}; check its address and permissions."
                ) from error
            yield cls(engine, found)
        finally:
            await engine.dispose()

    async def close(self) -> None:
        await self._engine.dispose()

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        """See `Sink.write`. A batch that the database refuses only at COMMIT is written in several transactions.

        Cancelled, it ends its transaction first, which may wait for the busy timeout.
        """
        receipts: dict[str, WriteReceipt] = {}
        items: list[_Item] = []
        for request in batch.requests:
            try:
                items.append(self._check(request, batch.batch_id))
            except InvalidRequest as error:
                receipts[request.request_id] = WriteReceipt(
                    request_id=request.request_id,
                    outcome=Outcome.REJECTED,
                    batch_id=batch.batch_id,
                    error=printable(str(error)),
                )
        if items:
            receipts |= await _uninterrupted(self._write(items))
        return [receipts[request.request_id] for request in batch.requests]

    def _check(self, request: WriteRequest, batch_id: str) -> _Item:
        """Raises `InvalidRequest` for what the ledger cannot hold; other refusals are for the ledger to keep."""
        item = _Item(row=LedgerRow.written(request, batch_id))
        check = self._checks.get(request.table)
        if check is None:
            known = ", ".join(self._checks)
            return item.refused(printable(f"There is no table {request.table[:80]!r} to write to, only {known}."))
        try:
            values = check.values(request.record)
        except InvalidRequest as error:
            return item.refused(str(error))
        record = CheckedRecord(request_id=request.request_id, table=check.table, values=values)
        return replace(item, record=record)

    async def _write(self, items: list[_Item]) -> dict[str, WriteReceipt]:
        try:
            async with self._engine.begin() as connection:
                return await _write_in_transaction(connection, items)
        except (SQLAlchemyError, OSError) as error:
            refused_before = len(items) == 1 and items[0].record is None
            if not is_item_error(error) or refused_before:
                shown = _shown(self._engine.url)
                raise SinkUnavailable(f"Database {shown} cannot be written: {reason(error)}.") from error
            refusal = reason(error)
        # A deferred constraint is checked by COMMIT, where no savepoint is left to tell the records apart.
        if len(items) == 1:
            return await self._write([items[0].refused(refusal)])
        middle = len(items) // 2
        return await self._write(items[:middle]) | await self._write(items[middle:])


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end even if cancelled, and only then be cancelled.

    A cancelled statement would leave its cursor open, and with it a connection that holds SQLite's write lock
    until the garbage collector finds it: every writer would wait for the busy timeout, and fail.
    """
    task = asyncio.create_task(work, name="write-batcher-transaction")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _write_in_transaction(connection: AsyncConnection, items: list[_Item]) -> dict[str, WriteReceipt]:
    claimed = await ledger.claim(connection, [item.row for item in items])
    known_ids = [item.row.request_id for item in items if item.row.request_id not in claimed]
    known = await ledger.find(connection, known_ids) if known_ids else {}
    receipts: dict[str, WriteReceipt] = {}
    outstanding: list[_Item] = []
    for item in items:
        earlier = known.get(item.row.request_id)
        if earlier is None or _is_superseded(earlier, item.row):
            outstanding.append(item)
        else:
            receipts[item.row.request_id] = _receipt_of_known(earlier, item.row)
    # If every record is refused alike, each still has its own refusal: this is the place to decide otherwise.
    refusals = await insert_records(connection, [item.record for item in outstanding if item.record is not None])
    changed: list[LedgerRow] = []
    for item in outstanding:
        request_id = item.row.request_id
        row = item.refused(refusals[request_id]).row if request_id in refusals else item.row
        receipts[request_id] = row.receipt()
        if request_id in refusals or request_id not in claimed:
            changed.append(row)
    if changed:
        await ledger.replace(connection, changed)
    return receipts


def _is_superseded(earlier: LedgerRow, row: LedgerRow) -> bool:
    """`written` binds everybody; a refusal binds the run that got it, so that a reset workflow gets a new try."""
    return earlier.outcome is not Outcome.WRITTEN and earlier.run_id != row.run_id


def _receipt_of_known(earlier: LedgerRow, row: LedgerRow) -> WriteReceipt:
    if earlier.record_hash != row.record_hash:
        error = printable(
            f"Conflict: request id {row.request_id!r} was already used for another record; "
            "give each record a request id of its own."
        )
        return replace(row, outcome=Outcome.REJECTED, error=error).receipt()
    if earlier.outcome is Outcome.WRITTEN:
        return replace(earlier, outcome=Outcome.DUPLICATE).receipt()
    return earlier.receipt()


def _is_busy(error: BaseException) -> bool:
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _parse(database_url: str) -> URL:
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        # Not shown: what cannot be parsed may hold a password anywhere.
        raise ConfigurationError(f"The database URL cannot be parsed; write it like {EXAMPLE}.") from error
    if url.drivername not in DRIVERS:
        raise ConfigurationError(f"Database {_shown(url)} has no supported driver; use {' or '.join(DRIVERS)}.")
    folder = Path(url.database or ".").parent
    if not folder.is_dir():
        raise ConfigurationError(f"Database {_shown(url)} cannot be opened: there is no folder {folder}; create it.")
    return url


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _create_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        # SQLite has one writer at a time: a second connection would only wait in the database instead of here.
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN would come after the first SAVEPOINT, which then commits on release.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # In WAL mode the default may lose the last commits with the power; receipts must not outlive what they confirm.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and then must write is refused at once when another has written.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _load_tables(connection: Connection, tables: Sequence[str | Table]) -> list[Table]:
    if not connection.dialect.insert_returning:
        raise ConfigurationError("This SQLite has no RETURNING; use version 3.35 or newer.")
    return [_load_table(connection, table) for table in tables]


def _load_table(connection: Connection, wanted: str | Table) -> Table:
    name, schema = (wanted, None) if isinstance(wanted, str) else (wanted.name, wanted.schema)
    inspector = inspect(connection)
    if not inspector.has_table(name, schema=schema):
        names = ", ".join(inspector.get_table_names(schema=schema)) or "no tables"
        raise ConfigurationError(
            f"Table {name!r} is missing in database {_shown(connection.engine.url)}, which has {names}; "
            "create the table or correct the name."
        )
    if isinstance(wanted, Table):
        return wanted
    table = Table(name, MetaData(), autoload_with=connection, resolve_fks=False)
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type.none_as_null = True  # otherwise null would be stored as the text "null"
    return table
