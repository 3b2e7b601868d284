"""PostgreSQL, through psycopg 3."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import URL, Column, Connection, ExceptionContext, Table, event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DataError, DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.bulk_insert import (
    AnyValues,
    BulkInsert,
    JsonRecordset,
    Statements,
    is_same_in_json,
)
from write_batcher.sinks.sql.dialect import (
    POOL_WAIT,
    STATEMENT_TIMEOUT,
    Dialect,
    Fault,
    StatementTimedOut,
    redacted,
)
from write_batcher.sinks.sql.records import printable

CONNECT_TIMEOUT = timedelta(seconds=5)
IDLE_TIMEOUT = STATEMENT_TIMEOUT  # of a transaction, whose process is frozen then
POOL_SIZE = 5  # each partition that this process drains needs a connection now and then

# A server whose machine or network has vanished never closes its connections: they are given up after 25 seconds.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVES = timedelta(seconds=10), timedelta(seconds=5), 3

ENCODING = "UTF8"
# psycopg's would double each per cent sign.
NAMES = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]
READ_ONLY_TRANSACTION = "25006"  # SQLSTATE
LACK_OF_RIGHTS = "42501"
DEFINITIONS_LOCK = int.from_bytes(b"wbatcher")  # an advisory lock: CREATE TABLE IF NOT EXISTS is not atomic

# `remote_apply` waits for standbys as well: more than `on`. All other values may lose what has been committed.
DURABLE_COMMIT = """
CASE WHEN current_setting('synchronous_commit') = 'remote_apply' THEN 'remote_apply' ELSE 'on' END
"""


class PostgresDialect(Dialect):
    """PostgreSQL.

    Errors are classified by SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html) rather than by psycopg's
    classes, which count 54000 as an operational error.
    """

    driver = "postgresql+psycopg"
    taken_key_codes = frozenset({"23505", "23P01"})
    random_id = "replace(gen_random_uuid()::text, '-', '')"
    has_roles = True
    cancellable = True
    locks_rows = True

    # Data exception, integrity constraint violation, WITH CHECK OPTION violation, PL/pgSQL error in a trigger.
    RECORD_CLASSES = frozenset({"22", "23", "44", "P0"})
    # Too large for an index or a page; two upserts of one key in one statement; a value whose type does not suit its
    # column (two codes).
    RECORD_CODES = frozenset({"54000", "21000", "42804", "42846"})
    # Deadlock and the like, locks, objects in use.
    BUSY_STATEMENT_CLASSES = frozenset({"40", "55"})
    # Disk, memory, server. Connection and login: of a foreign server, as long as our own connection lives.
    OUTAGE_CLASSES = frozenset({"08", "28", "3D", "53", "57", "58", "F0"})
    OUTAGE_CODES = frozenset({"XX001", "XX002"})  # damaged data files and indexes
    STATEMENT_ENDED = "57014"
    TRANSACTION_STATE_CLASS = "25"
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

    def bulk_insert(
        self, insert: Any, table: Table, columns: Sequence[Column[Any]], *, is_reflected: bool
    ) -> BulkInsert:
        # A table that the user describes may say more than the database does, or something else.
        if not is_reflected or not all(map(is_same_in_json, columns)):
            return AnyValues(insert)
        return JsonRecordset(insert, NAMES.format_table(table), columns)

    def takes_in_one_call(self, insert: BulkInsert) -> bool:
        return isinstance(insert, JsonRecordset)

    async def write_in_one_call(
        self,
        connection: AsyncConnection,
        statements: Callable[[datetime], Statements],
        *,
        lock_wait: timedelta,
        statement_timeout: timedelta,
    ) -> bool:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            async with driver.pipeline():  # what it is given is sent at once, without waiting for answers
                beginning = await driver.execute(_begin_statement(_limits(lock_wait, statement_timeout)))
            [*_, now] = await beginning.fetchone()
        except Exception:  # noqa: BLE001 - whatever it is, the careful way meets it again
            return False
        begun = statements(now)
        cursors: list[Any] = []
        try:
            async with driver.pipeline() as pipeline:
                for insert, rows in begun:
                    assert isinstance(insert, JsonRecordset)  # noqa: S101 - nothing else is taken in one call
                    statement = insert.prepared(connection.dialect, rows, all_new=not cursors)
                    cursors.append(await driver.execute(*statement))
                    # After a failure the transaction takes nothing more, and its COMMIT is a rollback. Without this, a
                    # process that is frozen here would not have the timeout of idle transactions.
                    await pipeline.sync()
                await driver.commit()
        except Exception as error:
            if getattr(error, "sqlstate", None) != self.STATEMENT_ENDED:
                return False
            sizes = [len(rows) for cursor, (_, rows) in zip(cursors, begun, strict=False) if cursor.pgresult is None]
            raise StatementTimedOut(printable(str(error).partition("\n")[0]), sizes[0] if sizes else 0) from error
        return True

    def code(self, error: DBAPIError) -> str | None:
        return getattr(error.orig, "sqlstate", None)

    def fault(self, error: DBAPIError) -> Fault | None:
        code = self.code(error)
        if error.connection_invalidated:
            return None
        if code is None:
            # The driver cannot send the value: it contains NUL, or its type is unknown.
            return Fault.RECORD if isinstance(error, (DataError, ProgrammingError)) else None
        if not self.DEFINED_CLASSES.match(code) or code[:2] in self.RECORD_CLASSES or code in self.RECORD_CODES:
            return Fault.RECORD
        if code == self.STATEMENT_ENDED:
            return Fault.TIMEOUT
        if code[:2] == self.TRANSACTION_STATE_CLASS:
            return None
        if code[:2] in self.BUSY_STATEMENT_CLASSES:
            return Fault.BUSY
        if code[:2] in self.OUTAGE_CLASSES or code in self.OUTAGE_CODES:
            return Fault.OUTAGE
        # A row policy, a text search query, a partition that a trigger looks for, recursion, what an extension raises
        # for a value; but also a missing permission or column, a broken function.
        return Fault.DOUBTFUL

    def is_busy(self, error: DBAPIError) -> bool:
        return (self.code(error) or "")[:2] in self.BUSY_CLASSES

    def is_refused_for_lack_of_rights(self, error: DBAPIError) -> bool:
        return self.code(error) == LACK_OF_RIGHTS

    def reason(self, error: DBAPIError) -> str:
        diagnosis = getattr(error.orig, "diag", None)
        if diagnosis is None or diagnosis.message_primary is None:
            return str(error.orig)
        message: str = diagnosis.message_primary
        detail = diagnosis.message_detail if self.code(error) in self.CODES_WITH_DETAIL else None
        return f"{message}: {detail}" if detail else message

    async def begin(
        self, connection: AsyncConnection, *, lock_wait: timedelta, statement_timeout: timedelta | None = None
    ) -> datetime:
        # Per transaction: a pooler such as PgBouncer refuses them as start-up parameters, or drops them silently, and
        # what is set for a session goes to whoever uses it next.
        statement = _begin_statement(_limits(lock_wait, statement_timeout))
        now: datetime = (await connection.exec_driver_sql(statement)).one()[-1]
        return now

    async def limit_lock_wait(self, connection: AsyncConnection, lock_wait: timedelta) -> None:
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_milliseconds(lock_wait)}")

    def check(self, connection: Connection) -> list[str]:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != ENCODING:
            raise ConfigurationError(
                f"Database {redacted(connection.engine.url)} has the encoding {encoding}, which cannot hold every "
                f"text: create it with ENCODING '{ENCODING}'."
            )
        settings = connection.exec_driver_sql("SELECT name, setting FROM pg_settings")
        in_force: dict[str, str] = {row.name: row.setting for row in settings}
        wanted = _limits(timedelta(milliseconds=int(in_force["lock_timeout"])))
        warnings = [
            f"{name} is {in_force[name]} ms instead of {milliseconds} within a transaction, so that a stuck statement "
            "is not ended: let its pooler keep a transaction on one server (pool_mode = transaction)"
            for name, milliseconds in wanted.items()
            if in_force[name] != str(milliseconds)
        ]
        if in_force["synchronous_commit"] not in ("on", "remote_apply"):
            warnings.append(
                f"synchronous_commit is {in_force['synchronous_commit']} within a transaction, so that a crash of the "
                "server loses writes that callers were told of: let write-batcher's role set it to on"
            )
        if in_force["fsync"] != "on":
            warnings.append(
                "fsync is off, so that a crash of its machine loses writes that callers were told of: set it to on"
            )
        return warnings

    def missing_rights(self, connection: Connection, table: Table, rights: tuple[str, ...]) -> list[str]:
        name = NAMES.format_table(table)
        # A right on any column will do: which columns are written is up to the records.
        check = text("SELECT has_table_privilege(:table, :right) OR has_any_column_privilege(:table, :right)")
        whole_table = text("SELECT has_table_privilege(:table, :right)")
        return [
            right
            for right in rights
            if not connection.execute(
                whole_table if right == "DELETE" else check, {"table": name, "right": right}
            ).scalar_one()
        ]

    def lock_definitions(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": DEFINITIONS_LOCK})


def _drop_read_only_connections(context: ExceptionContext) -> None:
    # After a failover, connections to a server that has become a replica stay open and answer pings. Only a new
    # connection reaches the primary.
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True  # drops all connections of the pool


def _begin_statement(limits: Mapping[str, int]) -> str:
    settings = ", ".join(f"set_config('{name}', '{milliseconds}', true)" for name, milliseconds in limits.items())
    return f"SELECT {settings}, set_config('synchronous_commit', {DURABLE_COMMIT}, true), now()"


def _limits(lock_wait: timedelta, statement_timeout: timedelta | None = None) -> dict[str, int]:
    """Settings of a transaction, in milliseconds."""
    return {
        "statement_timeout": _milliseconds(min(statement_timeout or STATEMENT_TIMEOUT, STATEMENT_TIMEOUT)),
        "lock_timeout": _milliseconds(lock_wait),
        # A process that is frozen in the middle of a batch must not block its successor.
        "idle_in_transaction_session_timeout": _milliseconds(IDLE_TIMEOUT),
    }


def _milliseconds(time: timedelta) -> int:
    return time // timedelta(milliseconds=1)


def _postgres_arguments(url: URL) -> dict[str, Any]:
    """Arguments for libpq. Parameters of the URL take precedence, but for the encoding."""
    arguments = {
        "application_name": "write-batcher",
        "connect_timeout": CONNECT_TIMEOUT // timedelta(seconds=1),
        "keepalives_idle": KEEPALIVE_IDLE // timedelta(seconds=1),
        "keepalives_interval": KEEPALIVE_INTERVAL // timedelta(seconds=1),
        "keepalives_count": KEEPALIVES,
        # Prepared statements belong to a session and break behind a pooler that shares sessions.
        "prepare_threshold": None,
    }
    return {name: value for name, value in arguments.items() if name not in url.query} | {"client_encoding": ENCODING}
