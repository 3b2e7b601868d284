"""PostgreSQL, through psycopg 3."""

import re
from datetime import timedelta
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, ExceptionContext, Table, event, func, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import LOCK_WAIT, POOL_WAIT, Dialect, redacted

CONNECT_TIMEOUT = timedelta(seconds=5)
STATEMENT_TIMEOUT = timedelta(seconds=30)  # below the sink's limit for a batch: PostgreSQL ends it and says why
POOL_SIZE = 5  # each partition that this process drains needs a connection now and then

# A server whose machine or network has vanished never closes its connections: they are given up after 25 seconds.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVES = timedelta(seconds=10), timedelta(seconds=5), 3

READ_ONLY_TRANSACTION = "25006"  # SQLSTATE
DEFINITIONS_LOCK = int.from_bytes(b"wbatcher")  # an advisory lock: CREATE TABLE IF NOT EXISTS is not atomic


class PostgresDialect(Dialect):
    """PostgreSQL.

    Errors are classified by SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html) rather than by psycopg's
    classes, which count 54000 as an operational error. A code of PostgreSQL that is not named here is taken for an
    outage: no record is rejected for it.
    """

    driver = "postgresql+psycopg"
    taken_key_codes = frozenset({"23505", "23P01"})
    cancellable = True
    locks_rows = True

    # Data exception, integrity constraint violation, WITH CHECK OPTION violation, PL/pgSQL error in a trigger.
    RECORD_CLASSES = frozenset({"22", "23", "44", "P0"})
    # Too large for an index or a page; two upserts of one key in one statement; a value whose type does not suit its
    # column (two codes).
    RECORD_CODES = frozenset({"54000", "21000", "42804", "42846"})
    # Syntax error or access rule violation: a row policy, a text search query or a partition that a trigger looks for,
    # but also a missing permission or column. Errors inside functions in other languages.
    AMBIGUOUS_CLASSES = frozenset({"42", "38", "39"})
    # All classes that PostgreSQL defines. Any other comes from RAISE ... USING ERRCODE in a trigger.
    DEFINED_CLASSES = re.compile("0[012389ABFLPZ]|10|2[0-8BDF]|3[489BDF]|4[024]|5[34578]|72|F0|HV|P0|XX")
    BUSY_CLASSES = frozenset({"40", "53", "55", "57"})
    # Their details show the key only. Those of a missing value would show the whole row, and end up in logs.
    CODES_WITH_DETAIL = frozenset({"23503", "23505", "23P01"})

    def create_engine(self, url: URL) -> AsyncEngine:
        try:
            engine = create_async_engine(
                url,
                pool_size=POOL_SIZE,
                max_overflow=0,
                pool_timeout=POOL_WAIT.total_seconds(),
                pool_pre_ping=True,
                hide_parameters=True,
                # The ledger relies on it: a row that another transaction has just committed must be visible.
                isolation_level="READ COMMITTED",
                connect_args=_postgres_arguments(url),
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"The driver of database {redacted(url)} is not installed: install write-batcher[postgresql]."
            ) from error
        event.listen(engine.sync_engine, "handle_error", _drop_read_only_connections)
        return engine

    def insert(self, table: Table) -> Any:
        return postgresql.insert(table)

    def code(self, error: DBAPIError) -> str | None:
        return getattr(error.orig, "sqlstate", None)

    def blames_record(self, error: DBAPIError) -> bool:
        code = self.code(error)
        if code is None:
            # The driver cannot send the value: it contains NUL, or its type is unknown.
            return isinstance(error, (DataError, ProgrammingError)) and not error.connection_invalidated
        if not self.DEFINED_CLASSES.match(code):
            return True
        return code[:2] in self.RECORD_CLASSES or code in self.RECORD_CODES

    def may_blame_record(self, error: DBAPIError) -> bool:
        return (self.code(error) or "")[:2] in self.AMBIGUOUS_CLASSES

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
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": DEFINITIONS_LOCK})


def _drop_read_only_connections(context: ExceptionContext) -> None:
    # After a failover, connections to a server that has become a replica stay open and answer pings. Only a new
    # connection reaches the primary.
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True  # drops all connections of the pool


def _postgres_arguments(url: URL) -> dict[str, Any]:
    """Arguments for libpq. Options in the URL take precedence."""
    milliseconds = {
        "statement_timeout": STATEMENT_TIMEOUT,
        "lock_timeout": LOCK_WAIT,
        # A process that is frozen in the middle of a batch must not block its successor.
        "idle_in_transaction_session_timeout": STATEMENT_TIMEOUT,
    }
    options = " ".join(f"-c {name}={value // timedelta(milliseconds=1)}" for name, value in milliseconds.items())
    arguments = {
        "application_name": "write-batcher",
        "connect_timeout": CONNECT_TIMEOUT // timedelta(seconds=1),
        "keepalives_idle": KEEPALIVE_IDLE // timedelta(seconds=1),
        "keepalives_interval": KEEPALIVE_INTERVAL // timedelta(seconds=1),
        "keepalives_count": KEEPALIVES,
        # Prepared statements belong to a session and break behind a pooler that shares sessions.
        "prepare_threshold": None,
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    return arguments | {"options": f"{options} {url.query.get('options', '')}"}
