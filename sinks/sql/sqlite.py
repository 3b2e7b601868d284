"""SQLite, through aiosqlite."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import URL, Column, Connection, Table, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.bulk_insert import (
    AnyValues,
    BulkInsert,
    Executemany,
    Statements,
    has_default_of_sqlalchemy,
)
from write_batcher.sinks.sql.dialect import POOL_WAIT, Dialect, Fault, redacted

LOCK_WAIT = timedelta(seconds=5)  # for another process that writes
WAL_RETRY_S = 0.01
GENERIC_ERROR = "SQLITE_ERROR"


class SqliteDialect(Dialect):
    """SQLite."""

    driver = "sqlite+aiosqlite"
    taken_key_codes = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"})
    random_id = "lower(hex(randomblob(16)))"
    has_roles = False
    # The cursor of a cancelled statement would keep the write lock until it is garbage-collected.
    cancellable = False
    locks_rows = False

    def create_engine(self, url: URL) -> AsyncEngine:
        folder = Path(url.database or ".").parent
        if not folder.is_dir():
            raise ConfigurationError(
                f"Database {redacted(url)} cannot be opened: there is no folder {folder}; create it."
            )
        engine = create_async_engine(
            url,
            # SQLite has one writer at a time: a second connection would wait in the database instead of here.
            poolclass=AsyncAdaptedQueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=POOL_WAIT.total_seconds(),
            hide_parameters=True,
            connect_args={"timeout": LOCK_WAIT.total_seconds()},
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine

    def insert(self, table: Table) -> Any:
        # OR ABORT overrides conflict clauses in the table's definition: they could silently drop a row, or end the
        # transaction.
        return sqlite.insert(table).prefix_with("OR ABORT")

    def bulk_insert(
        self, insert: Any, table: Table, columns: Sequence[Column[Any]], *, is_reflected: bool
    ) -> BulkInsert:
        return AnyValues(insert) if has_default_of_sqlalchemy(table, columns) else Executemany(insert, columns)

    def takes_in_one_call(self, insert: BulkInsert) -> bool:
        return isinstance(insert, Executemany)

    async def write_in_one_call(
        self,
        connection: AsyncConnection,
        statements: Callable[[datetime], Statements],
        *,
        lock_wait: timedelta,
        statement_timeout: timedelta,
    ) -> bool:
        begun = statements(_now())
        try:
            prepared = []
            for insert, rows in begun:
                assert isinstance(insert, Executemany)  # noqa: S101 - nothing else is taken in one call
                prepared.append(insert.prepared(connection.dialect, rows))
            driver: Any = (await connection.get_raw_connection()).driver_connection
            # Each call of aiosqlite is handed to its thread and back, which takes longer than a statement. It has no
            # public way to run several in one.
            return bool(await driver._execute(_write_all, driver._conn, prepared))
        except Exception:  # noqa: BLE001 - whatever it is, the careful way meets it again
            return False

    def code(self, error: DBAPIError) -> str | None:
        return getattr(error.orig, "sqlite_errorname", None)

    def fault(self, error: DBAPIError) -> Fault | None:
        code = self.code(error)
        if isinstance(error, (IntegrityError, DataError)):
            return Fault.RECORD
        if code is None:
            # The driver cannot bind a value of this type. SQLite was not asked.
            return Fault.RECORD if isinstance(error.orig, sqlite3.ProgrammingError) else None
        # The generic code: an error in a function that a trigger or generated column calls, but also a missing table.
        return Fault.DOUBTFUL if code == GENERIC_ERROR else None

    def is_busy(self, error: DBAPIError) -> bool:
        primary_code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return primary_code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def reason(self, error: DBAPIError) -> str:
        return str(error.orig)

    async def begin(
        self, connection: AsyncConnection, *, lock_wait: timedelta, statement_timeout: timedelta | None = None
    ) -> datetime:
        return _now()

    def has_ended_transaction(self, error: DBAPIError) -> bool:
        # There is no such savepoint any more: a trigger has raised ROLLBACK.
        return self.code(error) == GENERIC_ERROR


def _now() -> datetime:
    return datetime.now(UTC)  # SQLite has no clock but this machine's


def _write_all(connection: sqlite3.Connection, statements: list[tuple[str, list[tuple[Any, ...]]]]) -> bool:
    (claim, claimed), *inserts = statements
    try:
        connection.execute("BEGIN IMMEDIATE")
        if connection.executemany(claim, claimed).rowcount < len(claimed):
            connection.execute("ROLLBACK")
            return False
        for sql, rows in inserts:
            connection.executemany(sql, rows)
        connection.execute("COMMIT")
    except Exception:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would send its BEGIN after the first SAVEPOINT, which then commits when it is released.
    connection.isolation_level = None
    connection.run_async(_switch_to_wal)
    cursor = connection.cursor()
    # In WAL mode the default may lose the last commits in a power failure, after their receipts were sent.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


async def _switch_to_wal(connection: aiosqlite.Connection) -> None:
    # When several processes open a new file at once, SQLite refuses all but one here, without waiting for the lock.
    deadline = time.monotonic() + LOCK_WAIT.total_seconds()
    while True:
        try:
            await connection.execute_fetchall("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            return
        await asyncio.sleep(WAL_RETRY_S)


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock first: a transaction that begins with a read is refused at its first write, without
    # waiting, when another one has written in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
