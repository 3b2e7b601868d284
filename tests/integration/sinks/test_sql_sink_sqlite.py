"""What only SQLite does: its errors, its lock, its files."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from tests.support.target_databases import QUEUE, SqliteDatabase, batch, order, outcomes, reason, record
from write_batcher.errors import ConfigurationError, SinkUnavailable
from write_batcher.models import Outcome
from write_batcher.sinks.sql import sqlite as dialect
from write_batcher.sinks.sql.sink import SqlSink


@pytest.fixture
async def sink(sqlite: SqliteDatabase) -> AsyncIterator[SqlSink]:
    sqlite.execute("CREATE TABLE loose (untyped, name TEXT UNIQUE ON CONFLICT IGNORE)")
    async with sqlite.sink(["orders", "loose"]) as sink:
        yield sink


@pytest.mark.parametrize("value", [{"a": 1}, 2**70])
async def test_value_that_the_driver_cannot_bind_is_rejected_alone(sink: SqlSink, value: Any) -> None:
    receipts = await sink.write(
        batch(
            record("a", "loose", untyped=1),
            record("bad", "loose", untyped=value),
            record("b", "loose", untyped="text"),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert "INSERT" not in reason(receipts[1])


async def test_ambiguous_error_rejects_a_record_if_a_similar_one_is_accepted(
    sqlite: SqliteDatabase, sink: SqlSink
) -> None:
    sqlite.execute("CREATE TRIGGER parse BEFORE INSERT ON loose BEGIN SELECT json_extract(new.name, '$.a'); END")

    receipts = await sink.write(
        batch(record("a", "loose", untyped=1, name="{}"), record("bad", "loose", untyped=2, name="{"))
    )

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]
    assert reason(receipts[1]) == "malformed JSON"


async def test_locked_database_is_unavailable_until_it_is_free(
    sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "LOCK_WAIT", timedelta(milliseconds=50))
    async with sqlite.sink() as sink:
        with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(SinkUnavailable, match="database is locked"):
                await sink.write(batch(order(1)))
            with pytest.raises(SinkUnavailable, match="database is locked"):
                await sink.settle(order(1), queue=QUEUE)
            with pytest.raises(SinkUnavailable, match="database is locked"):
                async with sqlite.sink():
                    pass
            other.execute("ROLLBACK")
        assert sqlite.count("write_batcher_ledger") == 0

        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


async def test_cancelled_write_releases_its_lock(sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "LOCK_WAIT", timedelta(0))
    async with sqlite.sink() as sink:
        for number in range(40):  # each a little later, so that every statement is hit
            write = asyncio.create_task(sink.write(batch(order(number))))
            await asyncio.sleep(number / 5_000)
            write.cancel()
            await asyncio.gather(write, return_exceptions=True)
            sqlite.execute("BEGIN IMMEDIATE")


async def test_trigger_that_ends_the_transaction_rejects_only_its_record(sqlite: SqliteDatabase, sink: SqlSink) -> None:
    sqlite.execute(
        "CREATE TRIGGER stop BEFORE INSERT ON orders WHEN new.order_id = 2 BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    )

    receipts = await sink.write(batch(order(1), order(2), order(3)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert reason(receipts[1]) == "no"
    assert sqlite.query("SELECT order_id FROM orders") == [(1,), (3,)]


@pytest.mark.usefixtures("through_sqlalchemy")
async def test_full_disk_holds_the_batch(sqlite: SqliteDatabase, sink: SqlSink) -> None:
    limit = 1  # below the file's present size, which SQLite then takes as the limit

    def fill(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")

    event.listen(Engine, "begin", fill)
    try:
        with pytest.raises(SinkUnavailable, match="database or disk is full"):
            await sink.write(batch(order(1), order(2, note="x" * 100_000)))
        assert sqlite.count("orders") == 0

        limit = 1_000_000
        assert outcomes(await sink.write(batch(order(1), order(2)))) == [Outcome.WRITTEN] * 2
    finally:
        event.remove(Engine, "begin", fill)


async def test_conflict_clause_of_a_table_drops_no_row_silently(sink: SqlSink) -> None:
    receipts = await sink.write(batch(record("a", "loose", name="x"), record("b", "loose", name="x")))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]


async def test_commit_reaches_the_disk_before_it_returns(sqlite: SqliteDatabase) -> None:
    modes: set[tuple[str, int]] = set()

    def look(connection: Connection) -> None:
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        modes.add((journal, connection.exec_driver_sql("PRAGMA synchronous").scalar_one()))

    event.listen(Engine, "begin", look)
    try:
        async with sqlite.sink() as sink:
            await sink.write(batch(order(1)))
    finally:
        event.remove(Engine, "begin", look)

    full = 2
    assert modes == {("wal", full)}


async def test_open_refuses_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes\n" * 100)

    with pytest.raises(ConfigurationError, match=r"notes\.db cannot be opened: file is not a database"):
        async with SqlSink.open(f"sqlite+aiosqlite:///{tmp_path / 'notes.db'}", tables=["orders"]):
            pass


async def test_open_refuses_sqlite_without_returning(sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosqlite.sqlite_version_info", (3, 34, 1))

    with pytest.raises(ConfigurationError, match=r"3\.35"):
        async with sqlite.sink():
            pass
