"""What differs between the databases: connecting, waiting, and which errors are the fault of a record."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from sqlalchemy import URL, ColumnElement, Connection, Table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine

from write_batcher.sinks.sql.records import printable

LOCK_WAIT = timedelta(seconds=5)
"""How long a statement waits for another transaction's lock. The drain then holds the batch, and tries again."""

POOL_WAIT = timedelta(seconds=5)
"""How long a transaction waits for a connection of this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the database, or its driver, refuses a record. `code` is the database's own; the driver has none.

    Not `certain` when the same code also says that a permission is missing or that the table is broken.
    """

    text: str
    code: str | None = None
    certain: bool = True


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
    def may_blame_record(self, error: DBAPIError) -> bool:
        """Whether, of errors that do not blame a record for certain, this one comes from some records too."""

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
                certain = self.blames_record(error)
                if not certain and not self.may_blame_record(error):
                    return None
                return Refusal(text=self.reason_of(error), code=self.code(error), certain=certain)
            case StatementError():
                # Raised by a column's own type when it binds a value. SQLAlchemy's own errors are not the record's.
                blamed = not isinstance(error.orig, SQLAlchemyError)
            case _:
                # What the driver raises when it cannot send a value: UnicodeError is a ValueError.
                blamed = isinstance(error, (OverflowError, TypeError, ValueError))
        return Refusal(text=self.reason_of(error)) if blamed else None

    def reason_of(self, error: BaseException) -> str:
        if isinstance(error, DBAPIError):
            return printable(self.reason(error))
        cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
        return printable(str(cause) or type(cause).__name__)


def shown(url: URL) -> str:
    """`url` fit for a log."""
    return url.set(query={}).render_as_string(hide_password=True)  # a query may hold a password too
