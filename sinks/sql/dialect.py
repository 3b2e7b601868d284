"""What differs between databases: connecting, waiting, and which errors are the fault of a record."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from sqlalchemy import URL, ColumnElement, Connection, Table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine

from write_batcher.sinks.sql.records import printable

LOCK_WAIT = timedelta(seconds=5)  # for another transaction's lock; then the drain holds the batch and tries again
POOL_WAIT = timedelta(seconds=5)  # for a free connection of this process


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the database or its driver refuses a record."""

    text: str
    code: str | None = None
    """The database's error code; None when the driver refuses."""
    certain: bool = True
    """False when the same code is also used for a missing permission or a broken table."""


class Dialect(ABC):
    """One kind of database."""

    driver: ClassVar[str]
    """The `dialect+driver` of its URLs."""

    taken_key_codes: ClassVar[frozenset[str]]
    """Codes of errors that say that a row with the same key exists."""

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
    def code(self, error: DBAPIError) -> str | None:
        """Return the database's code of an error, or None when the error does not come from the database."""

    @abstractmethod
    def blames_record(self, error: DBAPIError) -> bool:
        """Whether a statement certainly failed because of its records, so that others may be written without them."""

    @abstractmethod
    def may_blame_record(self, error: DBAPIError) -> bool:
        """Whether an error that does not certainly blame a record may nevertheless be the fault of one."""

    @abstractmethod
    def is_busy(self, error: DBAPIError) -> bool:
        """Whether the database works but cannot serve us right now."""

    @abstractmethod
    def reason(self, error: DBAPIError) -> str:
        """Return the database's own message, without the statement and parameters that SQLAlchemy adds."""

    @abstractmethod
    def older_than(self, age: timedelta) -> ColumnElement[Any]:
        """Return the time `age` ago by the database's clock, comparable to a stored `DateTime`."""

    def lock_definitions(self, connection: Connection) -> None:  # noqa: B027 - SQLite's transactions do it anyway
        """Keep other transactions from creating tables until this one ends."""

    def refusal(self, error: BaseException) -> Refusal | None:
        """Return why a record is refused, or None when something other than a record is at fault."""
        match error:
            case DBAPIError():
                certain = self.blames_record(error)
                if not certain and not self.may_blame_record(error):
                    return None
                return Refusal(text=self.reason_of(error), code=self.code(error), certain=certain)
            case StatementError():
                # A column's type raises it when it binds a value. SQLAlchemy's own errors are not the record's fault.
                blamed = not isinstance(error.orig, SQLAlchemyError)
            case _:
                # The driver raises these when it cannot send a value; UnicodeError is a ValueError.
                blamed = isinstance(error, (OverflowError, TypeError, ValueError))
        return Refusal(text=self.reason_of(error)) if blamed else None

    def reason_of(self, error: BaseException) -> str:
        """Return the message of any error, printable and short."""
        if isinstance(error, DBAPIError):
            return printable(self.reason(error))
        cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
        return printable(str(cause) or type(cause).__name__)


def redacted(url: URL) -> str:
    """Return `url` for a log, without its password and without its query, which may hold a password too."""
    return url.set(query={}).render_as_string(hide_password=True)
