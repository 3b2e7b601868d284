import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, event

from write_batcher.activities.sinks import ledger, sql
from write_batcher.activities.sinks.protocol import Sink
from write_batcher.activities.sinks.sql import SqlSink
from write_batcher.errors import ConfigurationError, SinkUnavailable
from write_batcher.models import Batch, FlushReason, Outcome, ReplyAddress, WriteReceipt, WriteRequest

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
    untyped,
    name TEXT UNIQUE ON CONFLICT IGNORE,
    order_id INTEGER REFERENCES orders (order_id) DEFERRABLE INITIALLY DEFERRED
);
"""
TABLES = ("orders", "items", "audits")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return create_database(tmp_path)


@pytest.fixture
async def sink(database: Path) -> AsyncIterator[Sink]:
    async with SqlSink.open(url_of(database), tables=TABLES) as sink:
        yield sink


def create_database(folder: Path) -> Path:
    path = folder / "target.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
    return path


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def query(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def order(number: int, *, request_id: str | None = None, run_id: str = "run-1", **columns: Any) -> WriteRequest:
    return WriteRequest(
        request_id=request_id or f"order-{number:05}",
        table="orders",
        record={"order_id": number, "cents": 100, **columns},
        reply=ReplyAddress(workflow_id="caller", run_id=run_id),
    )


def record(request_id: str, table: str, **columns: Any) -> WriteRequest:
    return WriteRequest(request_id=request_id, table=table, record=columns)


def batch(*requests: WriteRequest, batch_id: str = "batch-1") -> Batch:
    return Batch(batch_id=batch_id, flush_reason=FlushReason.SIZE, requests=requests)


def outcomes(receipts: list[WriteReceipt]) -> list[Outcome]:
    return [receipt.outcome for receipt in receipts]


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What is sent to any database, with its parameters. COMMIT is a call of the driver and isn't seen."""
    sent: list[tuple[str, Any]] = []

    def count(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", count)


async def test_clean_batch_writes_rows_and_ledger(database: Path, sink: Sink) -> None:
    receipts = await sink.write(batch(order(2), order(1), record("i", "items", item_id="a", order_id=1)))

    assert receipts == [
        WriteReceipt(request_id=request_id, outcome=Outcome.WRITTEN, batch_id="batch-1")
        for request_id in ("order-00002", "order-00001", "i")
    ]
    assert query(database, "SELECT order_id, cents, note FROM orders") == [(2, 100, None), (1, 100, None)]
    assert query(database, "SELECT * FROM items") == [("a", 1)]
    kept = query(database, "SELECT request_id, outcome, batch_id, run_id, error FROM write_batcher_ledger")
    assert sorted(kept) == [
        ("i", "written", "batch-1", None, None),
        ("order-00001", "written", "batch-1", "run-1", None),
        ("order-00002", "written", "batch-1", "run-1", None),
    ]


async def test_redelivered_batch_is_a_duplicate_of_the_first(database: Path, sink: Sink) -> None:
    requests = [order(number) for number in range(10)]
    await sink.write(batch(*requests))

    receipts = await sink.write(batch(*requests, batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.DUPLICATE] * 10
    assert {receipt.batch_id for receipt in receipts} == {"batch-1"}
    assert query(database, "SELECT count(*) FROM orders") == [(10,)]


async def test_overlapping_batch_writes_only_what_is_new(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1), order(2)))

    receipts = await sink.write(batch(order(2), order(3), batch_id="batch-2"))

    assert [(receipt.outcome, receipt.batch_id) for receipt in receipts] == [
        (Outcome.DUPLICATE, "batch-1"),
        (Outcome.WRITTEN, "batch-2"),
    ]
    assert query(database, "SELECT order_id FROM orders") == [(1,), (2,), (3,)]


async def test_request_id_of_another_record_is_rejected_as_a_conflict(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1)))
    kept = query(database, "SELECT * FROM write_batcher_ledger")

    (receipt,) = await sink.write(batch(order(1, cents=999, run_id="run-2"), batch_id="batch-2"))

    assert receipt.outcome is Outcome.REJECTED
    assert receipt.error is not None
    assert "'order-00001' was already used for another record" in receipt.error
    assert query(database, "SELECT cents FROM orders") == [(100,)]
    assert query(database, "SELECT * FROM write_batcher_ledger") == kept


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (record("bad", "invoices", cents=1), ["'invoices'", "orders, items, audits"]),
        (record("bad", "orders"), ["'orders'", "empty"]),
        (order(2, request_id="bad", colour="red"), ["'orders'", "'colour'"]),
        (order(2, request_id="bad", cents="12"), ["'orders'", "'cents' (INTEGER)", "'12'", "valid integer"]),
        (order(2, request_id="bad", weight=float("nan")), ["'orders'", "'weight'", "nan"]),
        (order(2, request_id="bad", note="a\0b"), ["'orders'", "'note'", "'a\\x00b'"]),
        (order(2, request_id="bad", note="\ud800"), ["'orders'", "'note'", "'\\ud800'"]),
        (order(2, request_id="bad", cents=2**63), ["'orders'", "'cents'", str(2**63)]),
        (record("bad", "orders", order_id=2), ["'orders'", "'cents' (INTEGER) is required"]),
    ],
)
async def test_record_that_fits_no_column_is_rejected_and_the_others_are_written(
    database: Path, sink: Sink, bad: WriteRequest, named: list[str]
) -> None:
    receipts = await sink.write(batch(order(1), bad, order(3)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert all(words in (receipts[1].error or "") for words in named), receipts[1].error
    assert query(database, "SELECT order_id FROM orders") == [(1,), (3,)]
    kept = query(database, "SELECT outcome, batch_id, error FROM write_batcher_ledger WHERE request_id = 'bad'")
    assert kept == [("rejected", "batch-1", receipts[1].error)]


@pytest.mark.parametrize("request_id", ["a\0b", "\ud800", "x" * 3000])
async def test_request_id_that_the_ledger_cannot_hold_is_rejected(database: Path, sink: Sink, request_id: str) -> None:
    receipts = await sink.write(batch(order(1, request_id=request_id), order(2)))

    assert outcomes(receipts) == [Outcome.REJECTED, Outcome.WRITTEN]
    assert query(database, "SELECT order_id FROM orders") == [(2,)]


async def test_batch_of_nothing_that_the_ledger_can_hold_is_answered(sink: Sink) -> None:
    assert outcomes(await sink.write(batch(order(1, request_id="\0")))) == [Outcome.REJECTED]
    assert await sink.write(batch()) == []


async def test_record_that_the_database_refuses_is_rejected_alone_with_its_reason(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(50, request_id="first")))

    receipts = await sink.write(batch(*(order(number) for number in range(100)), batch_id="batch-2"))

    rejected = [receipt for receipt in receipts if receipt.outcome is not Outcome.WRITTEN]
    assert rejected == [
        WriteReceipt(
            request_id="order-00050",
            outcome=Outcome.REJECTED,
            batch_id="batch-2",
            error="UNIQUE constraint failed: orders.order_id",
        )
    ]
    assert query(database, "SELECT count(*), count(DISTINCT order_id) FROM orders") == [(100, 100)]
    assert query(database, "SELECT request_id FROM write_batcher_ledger WHERE outcome = 'rejected'") == [
        ("order-00050",)
    ]


async def test_every_record_of_a_batch_may_be_rejected(database: Path, sink: Sink) -> None:
    receipts = await sink.write(batch(*(order(number, cents=-1) for number in range(7))))

    assert outcomes(receipts) == [Outcome.REJECTED] * 7
    assert {receipt.error for receipt in receipts} == {"CHECK constraint failed: cents >= 0"}
    assert query(database, "SELECT count(*) FROM orders") == [(0,)]


@pytest.mark.parametrize("value", [{"a": 1}, 2**70])
async def test_value_that_the_driver_cannot_bind_is_rejected_alone(sink: Sink, value: Any) -> None:
    receipts = await sink.write(
        batch(
            record("a", "audits", untyped=1),
            record("bad", "audits", untyped=value),
            record("b", "audits", untyped="text"),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert "INSERT" not in (receipts[1].error or "INSERT")


async def test_rejection_binds_the_run_that_got_it(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1, request_id="blocker")))
    rejected = await sink.write(batch(order(1), batch_id="batch-2"))
    execute(database, "DELETE FROM orders")

    again = await sink.write(batch(order(1), batch_id="batch-3"))

    assert outcomes(again) == [Outcome.REJECTED]
    assert again == rejected
    assert query(database, "SELECT count(*) FROM orders") == [(0,)]


async def test_another_run_may_write_what_was_rejected(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1, request_id="blocker")))
    await sink.write(batch(order(1), batch_id="batch-2"))
    execute(database, "DELETE FROM orders")

    receipts = await sink.write(batch(order(1, run_id="run-2"), batch_id="batch-3"))

    assert [(receipt.outcome, receipt.batch_id) for receipt in receipts] == [(Outcome.WRITTEN, "batch-3")]
    assert query(database, "SELECT order_id FROM orders") == [(1,)]
    kept = query(database, "SELECT outcome, batch_id, run_id, error FROM write_batcher_ledger ORDER BY request_id")
    assert kept[1] == ("written", "batch-3", "run-2", None)


async def test_another_run_may_write_a_corrected_record(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1, cents=-1)))

    receipts = await sink.write(batch(order(1, cents=5, run_id="run-2")))

    assert outcomes(receipts) == [Outcome.WRITTEN]
    assert query(database, "SELECT cents FROM orders") == [(5,)]


async def test_another_run_that_is_rejected_again_gets_its_own_reason(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1, cents=-1)))

    receipts = await sink.write(batch(order(1, cents="x", run_id="run-2"), batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.REJECTED]
    assert query(database, "SELECT batch_id, run_id, error FROM write_batcher_ledger") == [
        ("batch-2", "run-2", receipts[0].error)
    ]


async def test_written_is_final_for_every_run(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1)))
    execute(database, "DELETE FROM orders")

    receipts = await sink.write(batch(order(1, run_id="run-2"), batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.DUPLICATE]
    assert query(database, "SELECT count(*) FROM orders") == [(0,)]


async def test_locked_database_is_unavailable_until_it_is_free(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_SECONDS", 0.05)
    async with SqlSink.open(url_of(database), tables=TABLES) as sink:
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(SinkUnavailable, match="database is locked"):
                await sink.write(batch(order(1)))
            with pytest.raises(SinkUnavailable, match="database is locked"):
                async with SqlSink.open(url_of(database), tables=TABLES):
                    pass
            other.execute("ROLLBACK")
        assert query(database, "SELECT count(*) FROM write_batcher_ledger") == [(0,)]

        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


async def test_failure_in_the_middle_leaves_neither_rows_nor_ledger(database: Path, sink: Sink) -> None:
    execute(database, "ALTER TABLE items RENAME TO hidden")

    with pytest.raises(SinkUnavailable, match="no such table: items") as failure:
        await sink.write(batch(order(1, note="secret"), record("i", "items", item_id="a", order_id=1)))

    assert "secret" not in f"{failure.value} {failure.value.__cause__}"
    assert query(database, "SELECT count(*) FROM orders") == [(0,)]
    assert query(database, "SELECT count(*) FROM write_batcher_ledger") == [(0,)]


async def test_trigger_that_ends_the_transaction_leaves_neither_rows_nor_ledger(database: Path, sink: Sink) -> None:
    execute(
        database,
        "CREATE TRIGGER stop BEFORE INSERT ON orders WHEN new.order_id = 2 BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    )

    with pytest.raises(SinkUnavailable):
        await sink.write(batch(order(1), order(2), order(3)))

    assert query(database, "SELECT count(*) FROM orders") == [(0,)]
    assert query(database, "SELECT count(*) FROM write_batcher_ledger") == [(0,)]


async def test_connection_that_breaks_blames_no_record(database: Path, sink: Sink) -> None:
    def cut(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT OR ABORT INTO orders"):
            dbapi_connection = connection.connection.dbapi_connection
            assert dbapi_connection is not None
            dbapi_connection.close()

    event.listen(Engine, "before_cursor_execute", cut)
    try:
        with pytest.raises(SinkUnavailable):
            await sink.write(batch(order(1), order(2)))
    finally:
        event.remove(Engine, "before_cursor_execute", cut)

    assert query(database, "SELECT count(*) FROM write_batcher_ledger") == [(0,)]
    assert outcomes(await sink.write(batch(order(1), order(2)))) == [Outcome.WRITTEN] * 2


async def test_full_disk_blames_no_record(database: Path, sink: Sink) -> None:
    limit = 1  # SQLite takes the file's present size instead

    def fill(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")

    event.listen(Engine, "begin", fill)
    try:
        with pytest.raises(SinkUnavailable, match="database or disk is full"):
            await sink.write(batch(order(1), order(2, note="x" * 100_000)))
        assert query(database, "SELECT count(*) FROM orders") == [(0,)]

        limit = 1_000_000
        assert outcomes(await sink.write(batch(order(1), order(2)))) == [Outcome.WRITTEN] * 2
    finally:
        event.remove(Engine, "begin", fill)


async def test_cancelled_write_is_all_or_nothing_and_keeps_no_lock(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_SECONDS", 0)
    async with SqlSink.open(url_of(database), tables=TABLES) as sink:
        await cancel_writes(database, sink)

        receipts = await sink.write(batch(*(order(number) for number in range(40))))

    assert set(outcomes(receipts)) <= {Outcome.WRITTEN, Outcome.DUPLICATE}
    assert query(database, "SELECT count(*) FROM orders") == [(40,)]


async def cancel_writes(database: Path, sink: Sink) -> None:
    """Each a little later than the one before, so that every statement is met."""
    for number in range(40):
        write = asyncio.create_task(sink.write(batch(order(number))))
        await asyncio.sleep(number / 5_000)
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)
        rows = "SELECT count(*) FROM orders"
        assert query(database, f"SELECT ({rows}) - (SELECT count(*) FROM write_batcher_ledger)") == [(0,)]
        execute(database, "BEGIN IMMEDIATE")


async def test_two_sinks_write_the_same_batch_once(database: Path) -> None:
    requests = [order(number) for number in range(50)]
    async with (
        SqlSink.open(url_of(database), tables=TABLES) as one,
        SqlSink.open(url_of(database), tables=TABLES) as two,
    ):
        answers = await asyncio.gather(one.write(batch(*requests)), two.write(batch(*requests, batch_id="batch-2")))

    assert sorted(set(outcomes(answers[0] + answers[1]))) == [Outcome.DUPLICATE, Outcome.WRITTEN]
    assert query(database, "SELECT count(*) FROM orders") == [(50,)]


async def test_sinks_that_open_a_new_database_at_once_all_open(database: Path) -> None:
    async def open_and_write(number: int) -> list[WriteReceipt]:
        async with SqlSink.open(url_of(database), tables=TABLES) as sink:
            return await sink.write(batch(order(number)))

    answers = await asyncio.gather(*(open_and_write(number) for number in range(8)))

    assert [outcomes(receipts) for receipts in answers] == [[Outcome.WRITTEN]] * 8


async def test_row_may_refer_to_a_row_of_the_same_batch(sink: Sink) -> None:
    await sink.write(batch(order(1)))

    receipts = await sink.write(
        batch(
            record("a", "items", item_id="a", order_id=1),
            order(2),
            record("b", "items", item_id="b", order_id=2),
            record("c", "items", item_id="c", order_id=404),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.WRITTEN, Outcome.WRITTEN, Outcome.REJECTED]
    assert receipts[3].error == "FOREIGN KEY constraint failed"


async def test_deferred_constraint_rejects_only_the_record_that_breaks_it(database: Path, sink: Sink) -> None:
    receipts = await sink.write(batch(order(1), record("a", "audits", order_id=404), record("b", "audits", order_id=1)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert query(database, "SELECT order_id FROM audits") == [(1,)]


async def test_conflict_clause_of_a_table_drops_no_row_silently(database: Path, sink: Sink) -> None:
    receipts = await sink.write(batch(record("a", "audits", name="x"), record("b", "audits", name="x")))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]


async def test_null_in_a_json_column_is_null_in_the_database(database: Path, sink: Sink) -> None:
    await sink.write(batch(order(1, details=None), order(2, details={"a": [1]})))

    assert query(database, "SELECT details FROM orders") == [(None,), ('{"a": [1]}',)]


async def test_clean_batch_of_100_costs_five_statements(sink: Sink) -> None:
    with statements() as sent:
        await sink.write(batch(*(order(number) for number in range(100))))

    assert [statement.split()[0] for statement, _ in sent] == ["BEGIN", "INSERT", "SAVEPOINT", "INSERT", "RELEASE"]


@pytest.mark.parametrize("position", [0, 42, 99])
async def test_one_bad_record_in_100_costs_at_most_20_statements_more(sink: Sink, position: int) -> None:
    requests = [order(number, cents=-1 if number == position else 1) for number in range(100)]

    with statements() as sent:
        await sink.write(batch(*requests))

    savepoints = [statement for statement, _ in sent if statement.split()[0] in ("SAVEPOINT", "ROLLBACK", "RELEASE")]
    assert len(sent) - len(savepoints) - 3 <= 20
    assert len(savepoints) <= 2 * 20


async def test_more_rows_than_a_statement_may_bind_are_written(database: Path) -> None:
    columns = [f"c{number}" for number in range(50)]
    execute(database, f"CREATE TABLE wide ({', '.join(columns)})")
    requests = [record(f"wide-{number}", "wide", **dict.fromkeys(columns, number)) for number in range(1_000)]
    async with SqlSink.open(url_of(database), tables=["wide"]) as sink:
        with statements() as sent:
            assert set(outcomes(await sink.write(batch(*requests)))) == {Outcome.WRITTEN}

    assert max(len(parameters) for _, parameters in sent) <= ledger.MAX_BOUND_PARAMETERS
    assert query(database, "SELECT count(*) FROM wide") == [(1_000,)]


async def test_more_duplicates_than_a_statement_may_bind_are_answered(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [order(number) for number in range(25)]
    await sink.write(batch(*requests))
    monkeypatch.setattr(ledger, "MAX_BOUND_PARAMETERS", 10)

    with statements() as sent:
        assert outcomes(await sink.write(batch(*requests))) == [Outcome.DUPLICATE] * 25

    assert [len(parameters) for statement, parameters in sent if statement.startswith("SELECT")] == [10, 10, 5]


async def test_commit_reaches_the_disk_before_it_returns(database: Path) -> None:
    modes: set[tuple[str, int]] = set()

    def look(connection: Connection) -> None:
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        modes.add((journal, connection.exec_driver_sql("PRAGMA synchronous").scalar_one()))

    event.listen(Engine, "begin", look)
    try:
        async with SqlSink.open(url_of(database), tables=TABLES) as sink:
            await sink.write(batch(order(1)))
    finally:
        event.remove(Engine, "begin", look)

    full = 2
    assert modes == {("wal", full)}


async def test_table_of_the_program_is_used_as_it_is(database: Path) -> None:
    table = Table("orders", MetaData(), Column("order_id", Integer), Column("cents", Integer, default=7))
    async with SqlSink.open(url_of(database), tables=[table]) as sink:
        receipts = await sink.write(batch(record("a", "orders", order_id=1), record("b", "orders", note="unknown")))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]
    assert query(database, "SELECT order_id, cents FROM orders") == [(1, 7)]


@pytest.mark.parametrize("table", ["invoices", Table("invoices", MetaData(), Column("a", Text))])
async def test_open_names_a_table_that_is_missing(database: Path, table: str | Table) -> None:
    with pytest.raises(ConfigurationError, match=r"Table 'invoices' is missing .*target\.db, which has audits, items"):
        async with SqlSink.open(url_of(database), tables=[table]):
            pass

    assert query(database, "SELECT name FROM sqlite_master WHERE name = 'write_batcher_ledger'") == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite+aiosqlite:////no/such/folder/x.db", r"/no/such/folder/x\.db cannot be opened: there is no folder"),
        ("sqlite:///x.db", r"sqlite:///x\.db has no supported driver; use sqlite\+aiosqlite"),
        ("mysql://me:hunter2@host/db", r"mysql://me:\*\*\*@host/db has no supported driver"),
        ("hunter2@host", "cannot be parsed; write it like sqlite"),
        ("sqlite+aiosqlite://", "'orders' is missing in database sqlite"),
    ],
)
async def test_open_refuses_an_address_without_showing_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        async with SqlSink.open(url, tables=TABLES):
            pass

    assert "hunter2" not in str(refused.value)


async def test_open_refuses_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes\n" * 100)

    with pytest.raises(ConfigurationError, match=r"notes\.db cannot be opened: file is not a database"):
        async with SqlSink.open(url_of(tmp_path / "notes.db"), tables=TABLES):
            pass


async def test_open_refuses_sqlite_without_returning(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosqlite.sqlite_version_info", (3, 34, 1))

    with pytest.raises(ConfigurationError, match=r"3\.35"):
        async with SqlSink.open(url_of(database), tables=TABLES):
            pass


requests = st.builds(
    order,
    st.integers(0, 5),
    request_id=st.sampled_from("abcdef"),
    run_id=st.sampled_from(["run-1", "run-2"]),
    cents=st.sampled_from([1, 2, -1, "one", 2**70]),
)
batches = st.lists(st.lists(requests, max_size=6, unique_by=lambda request: request.request_id), max_size=6)


@settings(max_examples=60, deadline=None)
@given(batches)
def test_rows_are_what_the_receipts_say(history: list[list[WriteRequest]]) -> None:
    async def write_all(path: Path) -> list[tuple[WriteRequest, WriteReceipt]]:
        async with SqlSink.open(url_of(path), tables=TABLES) as sink:
            answered: list[tuple[WriteRequest, WriteReceipt]] = []
            for number, written_together in enumerate(history):
                receipts = await sink.write(batch(*written_together, batch_id=str(number)))
                answered += zip(written_together, receipts, strict=True)
            return answered

    with tempfile.TemporaryDirectory() as folder:
        path = create_database(Path(folder))
        answers = asyncio.run(write_all(path))
        rows = query(path, "SELECT order_id, cents FROM orders")

    written: dict[str, tuple[WriteRequest, WriteReceipt]] = {}
    for request, receipt in answers:
        assert receipt.request_id == request.request_id
        assert (receipt.error is not None) == (receipt.outcome is Outcome.REJECTED)
        if receipt.outcome is Outcome.WRITTEN:
            assert request.request_id not in written
            written[request.request_id] = request, receipt
        elif receipt.outcome is Outcome.DUPLICATE:
            first_request, first_receipt = written[request.request_id]
            assert (first_request.record, first_receipt.batch_id) == (request.record, receipt.batch_id)
    assert sorted(rows) == sorted((r.record["order_id"], r.record["cents"]) for r, _ in written.values())
