"""Target databases of both kinds, requests for their tables, and statements to watch or to hold."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import psycopg
from sqlalchemy import Engine, Table, event
from sqlalchemy.util import await_only

from write_batcher.models import Batch, FlushReason, Held, Outcome, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.tables import TargetTable
from write_batcher.workers.embedded.postgres_server import PostgresServer

NO_SYNC = ("-c", "fsync=off")  # no test crashes the machine

SCHEMA = """
CREATE TABLE orders (
    order_id INTEGER NOT NULL UNIQUE,
    cents INTEGER NOT NULL CHECK (cents >= 0),
    note TEXT,
    weight REAL,
    details JSON
);
CREATE TABLE items (item_id TEXT PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (order_id));
CREATE TABLE audits (
    name TEXT UNIQUE,
    order_id INTEGER REFERENCES orders (order_id) DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE nodes (node_id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES nodes (node_id));
CREATE TABLE stock (
    shop TEXT,
    sku TEXT,
    pieces INTEGER NOT NULL DEFAULT 0 CHECK (pieces >= 0),
    note TEXT,
    PRIMARY KEY (shop, sku)
);
"""
QUEUE = "default/orders"
TABLES = ("orders", "items", "audits", "nodes", "stock:upsert")


class Database:
    """A target database with `SCHEMA`, and access to it that bypasses the sink."""

    kind: ClassVar[str]
    url: str

    def sink(
        self, tables: Sequence[str | Table | TargetTable] = TABLES, **more: Any
    ) -> AbstractAsyncContextManager[SqlSink]:
        return SqlSink.open(self.url, tables=tables, **more)

    def query(self, statement: str) -> list[Any]:
        raise NotImplementedError

    def execute(self, statement: str) -> None:
        raise NotImplementedError

    def ledger(self, columns: str = "request_id, outcome, batch_id, attempt") -> list[Any]:
        return self.query(f"SELECT {columns} FROM write_batcher_ledger ORDER BY request_id")

    def age_ledger(self, days: int) -> None:
        raise NotImplementedError

    def doubt_inserts(self, table: str, when: str) -> None:
        """Let inserts fail when `when` is true of `new`, such that either the table or the record may be at fault."""
        raise NotImplementedError

    def stop_doubting(self, table: str) -> None:
        raise NotImplementedError

    def journal_writes(self, table: str) -> None:
        """Let each row that is written to `table` add its `name` to the table `journal`."""
        raise NotImplementedError

    def count(self, table: str) -> int:
        ((number,),) = self.query(f"SELECT count(*) FROM {table}")
        return cast(int, number)


class SqliteDatabase(Database):
    kind = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "target.db"
        self.url = f"sqlite+aiosqlite:///{self.path}"
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(SCHEMA)

    def query(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    def age_ledger(self, days: int) -> None:
        self.execute(
            f"UPDATE write_batcher_ledger SET expires_at = strftime('%Y-%m-%d %H:%M:%f', expires_at, '-{days} days')"
        )

    def doubt_inserts(self, table: str, when: str) -> None:
        self.execute(
            f"CREATE TRIGGER doubt_{table} BEFORE INSERT ON {table} WHEN {when}"
            " BEGIN SELECT json_extract('{', '$'); END"
        )

    def stop_doubting(self, table: str) -> None:
        self.execute(f"DROP TRIGGER doubt_{table}")

    def journal_writes(self, table: str) -> None:
        for change in ("INSERT", "UPDATE"):
            self.execute(
                f"CREATE TRIGGER journal_{table}_{change} AFTER {change} ON {table}"
                " BEGIN INSERT INTO journal (name) VALUES (new.name); END"
            )


class PostgresDatabase(Database):
    kind = "postgresql"

    def __init__(self, server: PostgresServer, name: str = "postgres") -> None:
        self.server = server
        self.name = name

    @classmethod
    def fresh(cls, server: PostgresServer) -> Self:
        """The default database of the server, emptied: creating one for each test takes three times as long."""
        database = cls(server)
        database.execute(f"DROP SCHEMA public CASCADE; CREATE SCHEMA public; {SCHEMA}")
        return database

    @property
    def url(self) -> str:  # type: ignore[override]
        return self.server.url(self.name)

    def connect(self, **more: Any) -> psycopg.Connection:
        return psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True, **more)

    def query(self, statement: str) -> list[Any]:
        with self.connect() as connection:
            return connection.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        with self.connect() as connection:
            connection.execute(statement)

    def age_ledger(self, days: int) -> None:
        self.execute(f"UPDATE write_batcher_ledger SET expires_at = expires_at - interval '{days} days'")

    def doubt_inserts(self, table: str, when: str) -> None:
        self.execute(
            "CREATE OR REPLACE FUNCTION doubt() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'doubt' USING ERRCODE = '38000'; END$$;"
            f"CREATE TRIGGER doubt BEFORE INSERT ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION doubt()"
        )

    def stop_doubting(self, table: str) -> None:
        self.execute(f"DROP TRIGGER doubt ON {table}")

    def journal_writes(self, table: str) -> None:
        self.execute(
            "CREATE OR REPLACE FUNCTION write_journal() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN INSERT INTO journal (name) VALUES (new.name); RETURN new; END$$;"
            f"CREATE TRIGGER journal AFTER INSERT OR UPDATE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION write_journal()"
        )


def order(number: int, *, request_id: str | None = None, attempt: str = "run-1", **columns: Any) -> WriteRequest:
    return WriteRequest(
        request_id=request_id or f"order-{number:05}",
        table="orders",
        record={"order_id": number, "cents": 100, **columns},
        reply=ReplyAddress(workflow_id="caller", run_id=attempt, attempt=attempt),
    )


def record(request_id: str, table: str, *, key: str = "", **columns: Any) -> WriteRequest:
    return WriteRequest(request_id=request_id, table=table, record=columns, key=key)


def batch(*requests: WriteRequest, batch_id: str = "batch-1", queue: str = QUEUE) -> Batch:
    return Batch(batch_id=batch_id, queue=queue, flush_reason=FlushReason.SIZE, requests=requests)


def decided(answers: Sequence[WriteReceipt | Held]) -> list[WriteReceipt]:
    """The answers, none of which may be that a request is held."""
    receipts = [answer for answer in answers if isinstance(answer, WriteReceipt)]
    assert len(receipts) == len(answers), answers
    return receipts


def outcomes(answers: Iterable[WriteReceipt | Held]) -> list[Outcome | None]:
    """The outcomes of receipts; None for what is held."""
    return [None if isinstance(answer, Held) else answer.outcome for answer in answers]


def reason(answer: WriteReceipt | Held) -> str:
    """Why a request is rejected or held; empty otherwise."""
    return answer.reason if isinstance(answer, Held) else answer.error or ""


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """The statements sent to any database, with their parameters, without those that drivers send themselves: COMMIT,
    and PostgreSQL's BEGIN.
    """
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def verbs(sent: list[tuple[str, Any]]) -> list[str]:
    """What the statements do. PostgreSQL's quick way counts its inserts, in a WITH."""
    return ["INSERT" if "INSERT INTO" in statement else statement.split()[0] for statement, _ in sent]


@dataclass
class HeldTransaction:
    """A transaction that is held after one of its statements, until it is released."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    """If set, raised in the held transaction when it is released."""


@asynccontextmanager
async def held_after(statement_part: str) -> AsyncIterator[HeldTransaction]:
    """Hold the first transaction that executes a statement with `statement_part` in it."""
    held = HeldTransaction()

    def hold(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if held.reached.is_set() or statement_part not in statement:
            return
        held.reached.set()
        await_only(held.released.wait())
        if held.failure is not None:
            raise held.failure

    event.listen(Engine, "after_cursor_execute", hold)
    try:
        yield held
    finally:
        held.released.set()
        event.remove(Engine, "after_cursor_execute", hold)


def break_inserts(
    postgres: PostgresDatabase, *, when: str = "true", raises: str = "P0001", table: str = "orders", does: str = ""
) -> None:
    statement = does or f"RAISE EXCEPTION 'not today' USING ERRCODE = '{raises}'"
    postgres.execute(
        f"CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {statement}; RETURN new; END$$;"
        f"CREATE TRIGGER stop BEFORE INSERT ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION stop()"
    )


def slow_down(postgres: PostgresDatabase, table: str, seconds: float) -> None:
    break_inserts(postgres, table=table, when="true", does=f"PERFORM pg_sleep({seconds})")
