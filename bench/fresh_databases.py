"""Databases for one run each, empty but for the table that is written to, and what is in them afterwards."""

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg import sql

from write_batcher.bench.drain_plan import Kind
from write_batcher.bench.record_shapes import NOTE_CHARS, TAKEN_ID, RecordShape
from write_batcher.errors import WrongWork
from write_batcher.sinks.sql.schema import LEDGER
from write_batcher.workers.embedded.postgres_server import DATABASE, PostgresServer

TABLE_COUNTS = "SELECT count(*), count(DISTINCT id), coalesce(sum(length(note)), 0) FROM {table} WHERE id <> '{taken}'"
LEDGER_COUNTS = f"SELECT outcome, count(*) FROM {LEDGER.name} GROUP BY outcome"  # noqa: S608 - a constant

_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in a database after a run; the row `TAKEN_ID` does not count."""

    rows: int
    ids: int
    """Different primary keys."""
    note_chars: int
    """Characters in the column `note` of all rows."""
    ledger: dict[str, int] = field(default_factory=dict)
    """Requests in the write ledger by outcome; empty where there is no ledger."""


class FreshDatabase(Protocol):
    """One database, for one run or for several that belong together."""

    kind: Kind
    url: str
    """For `SqlSink`."""

    def connect(self) -> Any:
        """Open a connection of the database's own driver, set as durable as `SqlSink` sets it."""

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows that the statement returns; for one that returns none, an empty list."""

    def has_ledger(self) -> bool: ...


@contextmanager
def fresh_sqlite(folder: Path, shape: RecordShape) -> Iterator["SqliteFile"]:
    """A new file with the table of `shape`."""
    path = folder / f"bench-{next(_NUMBERS)}.db"
    database = SqliteFile(path)
    _prepare(database, shape)
    try:
        yield database
    finally:
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            file.unlink(missing_ok=True)


@contextmanager
def fresh_postgresql(server: PostgresServer, shape: RecordShape) -> Iterator["PostgresDatabase"]:
    """A new database of the server with the table of `shape`. What earlier runs left to be written to disk has been
    written when it is there.
    """
    name = f"bench_{next(_NUMBERS)}"
    with closing(psycopg.connect(_address(server, DATABASE), autocommit=True)) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        database = PostgresDatabase(server, name)
        try:
            _prepare(database, shape)
            admin.execute("CHECKPOINT")
            yield database
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class SqliteFile:
    """A SQLite file."""

    kind: Kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite+aiosqlite:///{path}"

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            return connection.execute(statement).fetchall()

    def has_ledger(self) -> bool:
        return bool(self.query(f"SELECT 1 FROM sqlite_schema WHERE name = '{LEDGER.name}'"))  # noqa: S608 - a constant


class PostgresDatabase:
    """A database of an embedded PostgreSQL, whose commits wait for the disk by default."""

    kind: Kind = "postgresql"

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.url = server.url(name)
        self._address = _address(server, name)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self._address)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def has_ledger(self) -> bool:
        return self.query(f"SELECT to_regclass('{LEDGER.name}')") != [(None,)]


def postgresql_version(server: PostgresServer) -> str:
    """Return the version that the server reports."""
    [(answer,)] = PostgresDatabase(server, DATABASE).query("SHOW server_version")
    return str(answer)


def contents_of(database: FreshDatabase, shape: RecordShape) -> Contents:
    """Count what is in the database, by another connection than the one that wrote it."""
    statement = TABLE_COUNTS.format(table=shape.table, taken=TAKEN_ID)
    [(rows, ids, note_chars)] = database.query(statement)
    outcomes: Sequence[tuple[Any, ...]] = database.query(LEDGER_COUNTS) if database.has_ledger() else []
    return Contents(rows=rows, ids=ids, note_chars=note_chars, ledger={str(name): count for name, count in outcomes})


def check_contents(
    database: FreshDatabase, shape: RecordShape, requests: int, *, bad: int = 0, with_ledger: bool
) -> None:
    """Raise `WrongWork` unless the database has what it must have after `requests`, of which it refused `bad`."""
    found, expected = contents_of(database, shape), expected_contents(requests, bad=bad, with_ledger=with_ledger)
    if found != expected:
        raise WrongWork(f"The {database.kind} database has {found}, expected was {expected}.")


def expected_contents(requests: int, *, bad: int = 0, with_ledger: bool) -> Contents:
    """What must be in the database when `requests` were written and the database refused `bad` of them."""
    written = requests - bad
    ledger = {name: count for name, count in (("written", written), ("rejected", bad)) if count and with_ledger}
    return Contents(rows=written, ids=written, note_chars=written * NOTE_CHARS, ledger=ledger)


def _prepare(database: FreshDatabase, shape: RecordShape) -> None:
    record = {**shape.record(0), "id": TAKEN_ID}
    values = ", ".join(f"'{value}'" for value in shape.row(record))
    database.query(shape.ddl(database.kind))
    database.query(f"INSERT INTO {shape.table} VALUES ({values})")  # noqa: S608 - values of our own


def _address(server: PostgresServer, name: str) -> str:
    """The URL that libpq understands."""
    return server.url(name).replace("postgresql+psycopg", "postgresql", 1)
