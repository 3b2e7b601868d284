"""SQLite, by aiosqlite."""

import asyncio
import sqlite3
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import URL, ColumnElement, Connection, Table, event, func
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import LOCK_WAIT, POOL_WAIT, Dialect, shown

WAL_POLL_S = 0.01


class SqliteDialect(Dialect):
    driver = "sqlite+aiosqlite"
    taken_key_codes = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"})
    # The cursor of a cancelled statement would keep the write lock until the garbage collector finds it.
    cancellable = False
    locks_rows = False

    def create_engine(self, url: URL) -> AsyncEngine:
        folder = Path(url.database or ".").parent
        if not folder.is_dir():
            raise ConfigurationError(f"Database {shown(url)} cannot be opened: there is no folder {folder}; create it.")
        engine = create_async_engine(
            url,
            # One writer at a time: a second connection would only wait in the database instead of here.
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
        # OR ABORT: a conflict clause in the table's definition could drop a row silently, or end the transaction.
        return sqlite.insert(table).prefix_with("OR ABORT")

    def code(self, error: DBAPIError) -> str | None:
        return getattr(error.orig, "sqlite_errorname", None)

    def blames_record(self, error: DBAPIError) -> bool:
        if isinstance(error, (IntegrityError, DataError)):
            return True
        # A value of a type that the driver cannot bind: SQLite itself was not asked, so there is no code.
        return isinstance(error.orig, sqlite3.ProgrammingError) and self.code(error) is None

    def may_blame_record(self, error: DBAPIError) -> bool:
        # What has no code of its own: a function that a trigger or generated column calls, but also a missing table.
        return self.code(error) == "SQLITE_ERROR"

    def is_busy(self, error: DBAPIError) -> bool:
        primary_code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return primary_code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def reason(self, error: DBAPIError) -> str:
        return str(error.orig)

    def older_than(self, age: timedelta) -> ColumnElement[Any]:
        return func.datetime("now", f"-{age.total_seconds():.3f} seconds")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN would come after the first SAVEPOINT, which then commits on release.
    connection.isolation_level = None
    connection.run_async(_switch_to_wal)
    cursor = connection.cursor()
    # In WAL mode the default may lose the last commits with the power; receipts must not outlive what they confirm.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


async def _switch_to_wal(connection: aiosqlite.Connection) -> None:
    # Of several processes that open a new file at once, all but one are refused here without being made to wait.
    give_up = time.monotonic() + LOCK_WAIT.total_seconds()
    while True:
        try:
            await connection.execute_fetchall("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        else:
            return
        await asyncio.sleep(WAL_POLL_S)


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and then must write is refused at once when another has written.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
