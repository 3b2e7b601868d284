"""What differs between the databases: connecting, waiting, and which errors are the fault of a record."""

import asyncio
import sqlite3
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import aiosqlite
from sqlalchemy import URL, ColumnElement, Connection, Table, event, func, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from write_batcher.activities.sinks.records import printable
from write_batcher.errors import ConfigurationError

LOCK_WAIT = timedelta(seconds=5)
"""How long a statement waits for another transaction's lock. The drain then holds the batch, and tries again."""

POOL_WAIT = timedelta(seconds=5)
"""How long a transaction waits for a connection of this process."""

WAL_POLL_S = 0.01

CONNECT_TIMEOUT = timedelta(seconds=5)
STATEMENT_TIMEOUT = timedelta(seconds=30)
"""Of PostgreSQL, for one statement; below what the drain grants a batch, so that the database ends it and says why."""

POOL_SIZE = 5
"""Connections to PostgreSQL: each partition that this process drains needs one now and then."""

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVES = timedelta(seconds=10), timedelta(seconds=5), 3
"""A server whose machine or network vanished sends no end of the connection: it is given up after 25 seconds."""

EXAMPLES = "sqlite+aiosqlite:///path/to/file.db or postgresql+psycopg://user:password@host/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the database, or its driver, refuses a record. `code` is the database's own; the driver has none."""

    text: str
    code: str | None = None


class Dialect(ABC):
    """One kind of database."""

    driver: ClassVar[str]

    taken_key_codes: ClassVar[frozenset[str]]
    """Of errors that say: such a row is there already."""

    cancellable: ClassVar[bool]
    """Whether a statement can be cut off by cancelling the task that waits for it."""

    locks_rows: ClassVar[bool]
    """Whether several transactions write at once, each with locks on its rows."""

    @abstractmethod
    def create_engine(self, url: URL) -> AsyncEngine:
        """Raises `ConfigurationError` when the driver is missing."""

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """An insert with `on_conflict_do_nothing`, `on_conflict_do_update` and `excluded`."""

    @abstractmethod
    def code(self, error: DBAPIError) -> str | None:
        """The database's code of an error; None when the database was not asked or did not answer."""

    @abstractmethod
    def blames_record(self, error: DBAPIError) -> bool:
        """Whether a statement failed because of the records in it, so that others may be written without them."""

    @abstractmethod
    def is_busy(self, error: DBAPIError) -> bool:
        """Whether the database works, but not for us right now."""

    @abstractmethod
    def reason(self, error: DBAPIError) -> str:
        """The database's own words, without the statement and its parameters that SQLAlchemy adds."""

    @abstractmethod
    def older_than(self, age: timedelta) -> ColumnElement[Any]:
        """The time that was `age` ago by the database's clock, comparable to a `DateTime` that it stored."""

    def lock_definitions(self, connection: Connection) -> None:  # noqa: B027 - SQLite's transactions do it anyway
        """Let nobody else create tables until the transaction ends."""

    def refusal(self, error: BaseException) -> Refusal | None:
        """Why a record is refused; None when something else than a record is at fault."""
        match error:
            case DBAPIError():
                if not self.blames_record(error):
                    return None
                return Refusal(text=self.reason_of(error), code=self.code(error))
            case StatementError():
                # Raised by a column's own type when it binds a value. SQLAlchemy's own errors are not the record's.
                blamed = not isinstance(error.orig, SQLAlchemyError)
            case _:
                blamed = isinstance(error, (OverflowError, UnicodeError))
        return Refusal(text=self.reason_of(error)) if blamed else None

    def reason_of(self, error: BaseException) -> str:
        if isinstance(error, DBAPIError):
            return printable(self.reason(error))
        cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
        return printable(str(cause) or type(cause).__name__)


class SqliteDialect(Dialect):
    driver = "sqlite+aiosqlite"
    taken_key_codes = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"})
    # The cursor of a cancelled statement would keep the write lock until the garbage collector finds it.
    cancellable = False
    locks_rows = False

    def create_engine(self, url: URL) -> AsyncEngine:
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


class PostgresDialect(Dialect):
    """Errors are told apart by SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html), not by class of psycopg,
    which files 54000 under operational errors. What isn't named here may heal: nobody is rejected for it.
    """

    driver = "postgresql+psycopg"
    taken_key_codes = frozenset({"23505", "23P01"})
    cancellable = True
    locks_rows = True

    # Data exception, integrity constraint violation, WITH CHECK OPTION violation.
    RECORD_CLASSES = frozenset({"22", "23", "44"})
    # Too large for an index or a page; RAISE EXCEPTION in a trigger; two upserts of one key in one statement.
    RECORD_CODES = frozenset({"54000", "P0001", "21000"})
    BUSY_CLASSES = frozenset({"40", "53", "55", "57"})
    # Their details name the key; that of a missing value would be the whole row, and go to logs.
    CODES_WITH_DETAIL = frozenset({"23503", "23505", "23P01"})

    LOCK_KEY = int.from_bytes(b"wbatcher")
    """Of the advisory lock around the creation of tables, which is no atomic "if not exists" in PostgreSQL."""

    def create_engine(self, url: URL) -> AsyncEngine:
        try:
            return create_async_engine(
                url,
                pool_size=POOL_SIZE,
                max_overflow=0,
                pool_timeout=POOL_WAIT.total_seconds(),
                pool_pre_ping=True,
                hide_parameters=True,
                # What the ledger relies on: a row that another transaction has just committed is seen as it is now.
                isolation_level="READ COMMITTED",
                connect_args=_postgres_arguments(url),
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"The driver of database {shown(url)} is not installed: install write-batcher[postgresql]."
            ) from error

    def insert(self, table: Table) -> Any:
        return postgresql.insert(table)

    def code(self, error: DBAPIError) -> str | None:
        return getattr(error.orig, "sqlstate", None)

    def blames_record(self, error: DBAPIError) -> bool:
        code = self.code(error)
        if code is None:
            # The driver itself cannot send the value: a NUL, or a type that it does not know.
            return isinstance(error, (DataError, ProgrammingError)) and not error.connection_invalidated
        return code[:2] in self.RECORD_CLASSES or code in self.RECORD_CODES

    def is_busy(self, error: DBAPIError) -> bool:
        return (self.code(error) or "")[:2] in self.BUSY_CLASSES

    def reason(self, error: DBAPIError) -> str:
        diagnosis = getattr(error.orig, "diag", None)
        if diagnosis is None or diagnosis.message_primary is None:
            return str(error.orig)
        message: str = diagnosis.message_primary
        detail = diagnosis.message_detail if self.code(error) in self.CODES_WITH_DETAIL else None
        return f"{message}: {detail}" if detail else message

    def older_than(self, age: timedelta) -> ColumnElement[Any]:
        return func.now() - age

    def lock_definitions(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self.LOCK_KEY})


def _postgres_arguments(url: URL) -> dict[str, Any]:
    """Arguments for libpq; what the URL says for itself wins."""
    milliseconds = {
        "statement_timeout": STATEMENT_TIMEOUT,
        "lock_timeout": LOCK_WAIT,
        # A process that was frozen in the middle of a batch would hold up its successor.
        "idle_in_transaction_session_timeout": STATEMENT_TIMEOUT,
    }
    options = " ".join(f"-c {name}={value // timedelta(milliseconds=1)}" for name, value in milliseconds.items())
    arguments = {
        "application_name": "write-batcher",
        "connect_timeout": CONNECT_TIMEOUT // timedelta(seconds=1),
        "keepalives_idle": KEEPALIVE_IDLE // timedelta(seconds=1),
        "keepalives_interval": KEEPALIVE_INTERVAL // timedelta(seconds=1),
        "keepalives_count": KEEPALIVES,
        # Prepared statements of a session break behind a pooler that shares sessions.
        "prepare_threshold": None,
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    return arguments | {"options": f"{options} {url.query.get('options', '')}"}


DIALECTS: tuple[Dialect, ...] = (SqliteDialect(), PostgresDialect())


def parse(database_url: str) -> tuple[URL, Dialect]:
    """Raises `ConfigurationError` for what cannot be parsed or has no driver here."""
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        # Not shown: what cannot be parsed may hold a password anywhere.
        raise ConfigurationError(f"The database URL cannot be parsed; write it like {EXAMPLES}.") from error
    for dialect in DIALECTS:
        if url.drivername == dialect.driver:
            return url, dialect
    drivers = " or ".join(dialect.driver for dialect in DIALECTS)
    raise ConfigurationError(f"Database {shown(url)} has no supported driver; use {drivers}.")


def shown(url: URL) -> str:
    """`url` fit for a log."""
    return url.render_as_string(hide_password=True)
