"""PostgreSQL, by psycopg 3."""

import re
from datetime import timedelta
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, ExceptionContext, Table, event, func, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import LOCK_WAIT, POOL_WAIT, Dialect, shown

CONNECT_TIMEOUT = timedelta(seconds=5)
STATEMENT_TIMEOUT = timedelta(seconds=30)
"""Of PostgreSQL, for one statement; below what the drain grants a batch, so that the database ends it and says why."""

POOL_SIZE = 5
"""Connections to PostgreSQL: each partition that this process drains needs one now and then."""

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVES = timedelta(seconds=10), timedelta(seconds=5), 3
"""A server whose machine or network vanished sends no end of the connection: it is given up after 25 seconds."""


READ_ONLY = "25006"


class PostgresDialect(Dialect):
    """Errors are told apart by SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html), not by class of psycopg,
    which files 54000 under operational errors. What PostgreSQL itself says and isn't named here may heal: nobody is
    rejected for it.
    """

    driver = "postgresql+psycopg"
    taken_key_codes = frozenset({"23505", "23P01"})
    cancellable = True
    locks_rows = True

    # Data exception, integrity constraint violation, WITH CHECK OPTION violation, error of PL/pgSQL in a trigger.
    RECORD_CLASSES = frozenset({"22", "23", "44", "P0"})
    # Too large for an index or a page; two upserts of one key in one statement; a value of a type that its column
    # cannot take.
    RECORD_CODES = frozenset({"54000", "21000", "42804", "42846"})
    # Syntax error or access rule violation: a policy for rows, a text search query, a partition that a trigger looks
    # for, but also a missing permission or column. Error in, or of, a function in another language.
    DOUBTFUL_CLASSES = frozenset({"42", "38", "39"})
    # All classes of PostgreSQL: another is of the user's making, by RAISE ... USING ERRCODE in a trigger.
    OWN_CLASS = re.compile("0[012389ABFLPZ]|10|2[0-8BDF]|3[489BDF]|4[024]|5[34578]|72|F0|HV|P0|XX")
    BUSY_CLASSES = frozenset({"40", "53", "55", "57"})
    # Their details name the key; that of a missing value would be the whole row, and go to logs.
    CODES_WITH_DETAIL = frozenset({"23503", "23505", "23P01"})

    LOCK_KEY = int.from_bytes(b"wbatcher")
    """Of the advisory lock around the creation of tables, which is no atomic "if not exists" in PostgreSQL."""

    def create_engine(self, url: URL) -> AsyncEngine:
        try:
            engine = create_async_engine(
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
        event.listen(engine.sync_engine, "handle_error", _leave_read_only_server)
        return engine

    def insert(self, table: Table) -> Any:
        return postgresql.insert(table)

    def code(self, error: DBAPIError) -> str | None:
        return getattr(error.orig, "sqlstate", None)

    def blames_record(self, error: DBAPIError) -> bool:
        code = self.code(error)
        if code is None:
            # The driver itself cannot send the value: a NUL, or a type that it does not know.
            return isinstance(error, (DataError, ProgrammingError)) and not error.connection_invalidated
        if not self.OWN_CLASS.match(code):
            return True
        return code[:2] in self.RECORD_CLASSES or code in self.RECORD_CODES

    def may_blame_record(self, error: DBAPIError) -> bool:
        return (self.code(error) or "")[:2] in self.DOUBTFUL_CLASSES

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


def _leave_read_only_server(context: ExceptionContext) -> None:
    # After a failover, connections to the server that has become a replica stay open and answer pings; only a new one
    # finds the server that can be written now.
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True  # drops all connections of the pool


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
