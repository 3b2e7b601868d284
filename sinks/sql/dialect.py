"""What differs between databases: connecting, transactions, and which errors are the fault of a record."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, ClassVar

from sqlalchemy import URL, Column, Connection, Table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from write_batcher.sinks.sql.bulk_insert import BulkInsert, Statements
from write_batcher.sinks.sql.records import printable

POOL_WAIT = timedelta(seconds=5)  # for a free connection of this process
STATEMENT_TIMEOUT = timedelta(seconds=30)  # below the sink's limit for a batch: the database ends it and says why


class Fault(Enum):
    """Whose fault it is that a statement failed."""

    RECORD = auto()
    """The record is refused, and would be refused again."""
    DOUBTFUL = auto()
    """The record's, or its table's: the same error is also used for a missing permission, column or function."""
    BUSY = auto()
    """Nobody's: a row is locked, two transactions are in each other's way, an object is in use."""
    TIMEOUT = auto()
    """The statement was ended because it took too long."""
    OUTAGE = auto()
    """Nobody's: disk, memory, data files or a foreign server are away, for one table or for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the database or its driver refuses a record."""

    text: str
    fault: Fault = Fault.RECORD
    code: str | None = None
    """The database's error code; None when the driver refuses."""

    def __str__(self) -> str:
        code = f" ({self.code})" if self.code else ""
        return f"{self.text.rstrip('.')}{code}"


class Dialect(ABC):
    """One kind of database."""

    driver: ClassVar[str]
    """The `dialect+driver` of its URLs."""

    taken_key_codes: ClassVar[frozenset[str]]
    """Codes of errors that say that a row with the same key exists."""

    random_id: ClassVar[str]
    """An expression of SQL: 32 random hexadecimal digits."""

    has_roles: ClassVar[bool]
    """Whether users have rights on tables."""

    cancellable: ClassVar[bool]
    """Whether cancelling the task that waits for a statement ends the statement."""

    locks_rows: ClassVar[bool]
    """Whether several transactions write at a time, each with locks on its rows."""

    @abstractmethod
    def create_engine(self, url: URL) -> AsyncEngine:
        """Create the engine. Raises `ConfigurationError` when the driver or the database's folder is missing."""

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """Return an insert with `on_conflict_do_nothing`, `on_conflict_do_update` and `excluded`."""

    @abstractmethod
    def bulk_insert(
        self, insert: Any, table: Table, columns: Sequence[Column[Any]], *, is_reflected: bool
    ) -> BulkInsert:
        """Return the quickest way to run `insert` for many rows with values for these columns, of those that store the
        same as SQLAlchemy's own. `is_reflected`: they are as the database has them.
        """

    @abstractmethod
    def takes_in_one_call(self, insert: BulkInsert) -> bool:
        """Whether `write_in_one_call` takes such a statement."""

    @abstractmethod
    async def write_in_one_call(
        self,
        connection: AsyncConnection,
        statements: Callable[[datetime], Statements],
        *,
        lock_wait: timedelta,
        statement_timeout: timedelta,
    ) -> bool:
        """Run statements in one transaction, the first of which has to insert all of its rows, in as few exchanges with
        the database as it takes. `statements` returns them for what `begin` would have returned; limits are as there.
        Returns False when anything is in the way: then nothing is written, unless the connection was lost.

        Raises `StatementTimedOut`.
        """

    @abstractmethod
    def code(self, error: DBAPIError) -> str | None:
        """Return the database's code of an error, or None when the error does not come from the database."""

    @abstractmethod
    def fault(self, error: DBAPIError) -> Fault | None:
        """Return whose fault an error is, or None when the whole database is away."""

    @abstractmethod
    def is_busy(self, error: DBAPIError) -> bool:
        """Whether the database works but cannot serve us right now."""

    @abstractmethod
    def reason(self, error: DBAPIError) -> str:
        """Return the database's own message, without the statement and parameters that SQLAlchemy adds."""

    @abstractmethod
    async def begin(
        self, connection: AsyncConnection, *, lock_wait: timedelta, statement_timeout: timedelta | None = None
    ) -> datetime:
        """Prepare a transaction that has just begun: its time limits, and that its commit reaches the disk. It waits
        `lock_wait` for each lock of another transaction, and no longer than `STATEMENT_TIMEOUT`, or `statement_timeout`
        if that is shorter, for each statement. Returns the time by the database's clock, in UTC.
        """

    async def limit_lock_wait(self, connection: AsyncConnection, lock_wait: timedelta) -> None:  # noqa: B027
        """Wait no longer than this for each lock, in the rest of the transaction."""

    def check(self, connection: Connection) -> list[str]:
        """Return warnings about a database that loses what it has committed, or does not keep to our time limits; each
        names its cure. Raises `ConfigurationError` when it cannot hold every text.
        """
        return []

    def missing_rights(self, connection: Connection, table: Table, rights: tuple[str, ...]) -> list[str]:
        """Return which of the rights `SELECT`, `INSERT`, ... on a table the connected user lacks."""
        return []

    def lock_definitions(self, connection: Connection) -> None:  # noqa: B027 - SQLite's transactions do it anyway
        """Keep other transactions from creating tables until this one ends."""

    def is_refused_for_lack_of_rights(self, error: DBAPIError) -> bool:
        return False

    def has_ended_transaction(self, error: DBAPIError) -> bool:
        """Whether the error of a ROLLBACK TO SAVEPOINT says that the failed statement has ended the transaction."""
        return False

    def refusal(self, error: BaseException) -> Refusal | None:
        """Return why a record is refused, or None when the whole database is away.

        Python's own errors come from a driver that cannot turn a value into what the database understands. Those that
        drivers do not raise for that on purpose have a code: they may come from a bug that meets every record.
        """
        match error:
            case DBAPIError():
                fault = self.fault(error)
                return Refusal(text=self.reason_of(error), code=self.code(error), fault=fault) if fault else None
            case StatementError():
                # A column's type raises it when it binds a value. SQLAlchemy's own errors are not the record's fault.
                return None if isinstance(error.orig, SQLAlchemyError) else Refusal(text=self.reason_of(error))
            case OverflowError() | TypeError() | ValueError():
                return Refusal(text=self.reason_of(error))
            case ArithmeticError() | AttributeError() | LookupError() | RecursionError():
                return Refusal(text=self.reason_of(error), code=type(error).__name__)
        return None

    def reason_of(self, error: BaseException) -> str:
        """Return the message of any error, printable and short."""
        if isinstance(error, DBAPIError):
            return printable(self.reason(error))
        cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
        return printable(str(cause) or type(cause).__name__)


class StatementTimedOut(Exception):
    """One of several statements took too long: the one for so many `rows`. Its text is printable."""

    def __init__(self, text: str, rows: int) -> None:
        super().__init__(text)
        self.rows = rows


def redacted(url: URL) -> str:
    """Return `url` for a log, without its password and without its query, which may hold a password too."""
    return url.set(query={}).render_as_string(hide_password=True)
