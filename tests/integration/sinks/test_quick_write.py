"""The quick way of writing a batch stores and answers exactly what the careful way does, and leaves it the unusual."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from sqlalchemy import Column, Dialect, Integer, MetaData, Table, Text, TypeDecorator

from tests.support.quick_way import carefully, quickly
from tests.support.target_databases import Database, PostgresDatabase, SqliteDatabase, batch, order, record
from write_batcher.models import Batch, Held, Outcome, WriteReceipt
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.table_faults import MIN_ALIKE

WRITTEN, DUPLICATE, REJECTED = Outcome.WRITTEN, Outcome.DUPLICATE, Outcome.REJECTED

COLUMNS = {
    "sqlite": "id INTEGER PRIMARY KEY, name TEXT, amount NUMERIC(12, 3), ratio DOUBLE PRECISION, at TIMESTAMP,"
    " day DATE, clock TIME, done BOOLEAN, data BLOB, doc JSON, small SMALLINT, code VARCHAR(5),"
    " filled TEXT DEFAULT 'by database'",
    "postgresql": "id BIGINT PRIMARY KEY, name TEXT, amount NUMERIC(12, 3), ratio DOUBLE PRECISION, at TIMESTAMPTZ,"
    " day DATE, clock TIME, done BOOLEAN, data BYTEA, doc JSONB, small SMALLINT, code VARCHAR(5),"
    " filled TEXT DEFAULT 'by database', plain JSON, unique_id UUID, at_home TIMESTAMP, short REAL, tags TEXT[]",
}
ROWS: list[dict[str, Any]] = [
    {"name": "ordinary", "amount": "12.500", "ratio": 0.1, "at": "2026-01-02T03:04:05+02:00", "done": True},
    {"name": "numbers", "amount": 7, "ratio": 1e300, "small": -32768},
    {"name": "more digits than the column", "amount": "1.23456", "ratio": -0.0, "small": 32767},
    {"name": "days", "day": "2024-02-29", "clock": "23:59:59.999999", "at": "0001-01-01T00:00:00"},
    {"name": "text: 'quoted' \\ \"twice\" %s %(x)s :x \u2028 \U0001f600 \x7f\x01", "code": "abcde"},
    {"name": "bytes", "data": "AAEC/w=="},
    {"name": "documents", "doc": {"a": [1, 2.5, None, True, "\u00e9"], "b": {}}},
    {"name": "a text as a document", "doc": "text"},
    {"name": "a list as a document", "doc": [[], {}]},
    {"name": "nothing", "amount": None, "ratio": None, "at": None, "doc": None, "data": None, "filled": None},
    {"name": ""},
]
ROWS_OF_POSTGRESQL: list[dict[str, Any]] = [
    {"name": "json", "plain": {"z": 1, "a": [1.0, "\u00e9"]}},
    {"name": "a text as json", "plain": "\u00e9\x7f/\u2028"},
    {"name": "uuid", "unique_id": "0123456789abcdef0123456789abcdef"},
    {"name": "at home", "at_home": "2026-01-02T03:04:05+02:00"},
    {"name": "rounded", "short": 16777217.0},
    {"name": "array", "tags": ["a", "b,c", None, '"']},
]


@pytest.fixture
async def wide(database: Database) -> AsyncIterator[SqlSink]:
    for table in ("quick", "careful"):
        database.execute(f"CREATE TABLE {table} ({COLUMNS[database.kind]})")
    async with database.sink(["quick", "careful"]) as sink:
        yield sink


def rows_of(database: Database) -> list[dict[str, Any]]:
    return ROWS + (ROWS_OF_POSTGRESQL if database.kind == "postgresql" else [])


def of(table: str, rows: list[dict[str, Any]]) -> Batch:
    return batch(
        *(record(f"{table}-{number:03}", table, id=number, **row) for number, row in enumerate(rows)), batch_id="b"
    )


def without_name(receipts: list[WriteReceipt | Held], table: str) -> list[Any]:
    return [
        replace(receipt, request_id=receipt.request_id.removeprefix(table), record_hash=None)
        if isinstance(receipt, WriteReceipt)
        else receipt
        for receipt in receipts
    ]


async def test_both_ways_store_the_same(database: Database, wide: SqlSink) -> None:
    rows = rows_of(database)
    with quickly() as written:
        quick = await wide.write(of("quick", rows))
    with carefully():
        careful = await wide.write(of("careful", rows))

    assert written == [True]
    assert without_name(quick, "quick") == without_name(careful, "careful")
    stored = [
        [tuple(map(str, row)) for row in database.query(f"SELECT * FROM {table} ORDER BY id")]
        for table in ("quick", "careful")
    ]
    assert stored[0] == stored[1]
    assert len(stored[0]) == len(rows)
    columns = "outcome, batch_id, attempt, asked_ms, decisions, floor_ms, returned"
    kept = [
        database.query(
            f"SELECT {columns} FROM write_batcher_ledger WHERE request_id LIKE '{table}%' ORDER BY request_id"
        )
        for table in ("quick", "careful")
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    "unfit",
    [
        {"amount": "1e20"},
        {"small": 40_000},
        {"code": "abcdef"},
        {"id": 0},
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"ratio": float("inf")},
        {"done": "yes"},
        {"nowhere": 1},
        {"at": "tomorrow"},
        {"doc": {"a": float("nan")}},
        {"amount": 10**400},
    ],
    ids=str,
)
async def test_both_ways_decide_alike_about_an_unusual_record(
    database: Database, wide: SqlSink, unfit: dict[str, Any]
) -> None:
    rows = [*rows_of(database)[:3], unfit]

    async def told(table: str) -> list[str]:
        requests = [record(f"{table}-{number}", table, **{"id": number, **row}) for number, row in enumerate(rows)]
        answers = await wide.write(batch(*requests))
        return [_told(answer).replace(table, "") for answer in answers]

    quick = await told("quick")
    with carefully():
        assert quick == await told("careful")
    assert database.count("quick") == database.count("careful")


def _told(answer: WriteReceipt | Held) -> str:
    return answer.reason if isinstance(answer, Held) else f"{answer.outcome}: {answer.error}"


values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=4)
    | st.sampled_from(["1.5", "2026-01-02", "2026-01-02T03:04:05", "12:00", "AAEC", "", "NaN", "1e999", "true"])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.none() | st.floats(), max_size=2)
)
usual = st.fixed_dictionaries({"id": st.integers(0, 5), "name": st.text(max_size=4)})
near_usual = st.dictionaries(
    st.sampled_from(
        ["id", "name", "amount", "ratio", "at", "day", "clock", "done", "data", "doc", "small", "code", "no"]
    ),
    values,
    max_size=4,
)


# Fewer than the sink takes for the fault of their table when they are refused alike: it would hold them.
@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 8), usual | near_usual), min_size=2, max_size=MIN_ALIKE - 1))
def test_both_ways_agree_about_any_batch(written: list[tuple[int, dict[str, Any]]]) -> None:
    requests = [record(f"r{number}", "quick", **columns) for number, columns in dict(written).items()]

    async def write() -> tuple[list[Any], ...]:
        with tempfile.TemporaryDirectory() as folder:
            database = SqliteDatabase(Path(folder))
            database.execute(f"CREATE TABLE quick ({COLUMNS['sqlite']})")
            async with database.sink(["quick"]) as sink:
                before = await sink.write(batch(record("r0", "quick", id=0), record("r1", "quick", id=1), batch_id="a"))
                answers = await sink.write(batch(*requests, batch_id="b"))
            rows = database.query("SELECT * FROM quick ORDER BY rowid")
            return before, answers, rows, database.ledger("request_id, outcome, batch_id, decisions")

    quick = asyncio.run(write())
    with carefully():
        assert quick == asyncio.run(write())


async def test_batch_with_a_known_id_is_left_to_the_careful_way(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1), order(2)))

    with quickly() as written:
        answers = await sink.write(batch(order(2), order(3), batch_id="batch-2"))

    assert written == [False]
    assert [answer.outcome for answer in answers if isinstance(answer, WriteReceipt)] == [DUPLICATE, WRITTEN]
    assert database.count("orders") == 3


async def test_request_that_was_written_is_not_written_again_where_no_key_forbids_it(database: Database) -> None:
    database.execute("CREATE TABLE notes (note TEXT)")
    requests = [record(f"note-{number}", "notes", note=str(number)) for number in range(5)]
    async with database.sink(["notes"]) as sink:
        await sink.write(batch(*requests[:3]))
        await sink.write(batch(*requests[2:], batch_id="batch-2"))

    assert sorted(database.query("SELECT note FROM notes")) == [(str(number),) for number in range(5)]


class Encrypted(TypeDecorator[str]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else f"encrypted {value[::-1]}"


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        (lambda: Column("c", Text().with_variant(Encrypted(), "postgresql", "sqlite")), "encrypted b"),
        (lambda: Column("c", Encrypted()), "encrypted b"),
        (lambda: Column("C", Text, quote=False), "b"),
        (lambda: Column("x" * 70, Text), "b"),
        (lambda: Column("c", Text, key="other"), "b"),
        (lambda: Column("c", Text, default="unused"), "b"),
    ],
    ids=["variant", "decorator", "not quoted", "long name", "key", "default"],
)
async def test_table_that_the_user_describes_is_taken_at_its_word(
    database: Database, column: Callable[[], Column[Any]], stored: str
) -> None:
    described = Table("described", MetaData(), Column("id", Integer, primary_key=True), column())
    async with database.sink([described], create=[described]) as sink:
        await sink.write(
            batch(*(record(f"r{n}", "described", id=n, **{described.columns.keys()[1]: "b"}) for n in range(3)))
        )

    assert database.query("SELECT * FROM described ORDER BY id") == [(n, stored) for n in range(3)]


async def test_table_with_defaults_that_only_python_knows_is_written_quickly_and_once(database: Database) -> None:
    described = Table("described", MetaData(), Column("id", Integer), Column("c", Text, default="from Python"))
    requests = [record(f"r{number}", "described", id=number) for number in range(5)]
    async with database.sink([described], create=[described]) as sink:
        with quickly() as written:
            await sink.write(batch(*requests[:3]))
            await sink.write(batch(*requests[2:], batch_id="batch-2"))

    assert written == [True, False]
    assert database.query("SELECT * FROM described ORDER BY id") == [(number, "from Python") for number in range(5)]


class Spelled(TypeDecorator[str]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str:
        return "nothing" if value is None else value


async def test_what_a_type_makes_of_none_is_stored_in_every_row(database: Database) -> None:
    described = Table("described", MetaData(), Column("id", Integer), Column("c", Spelled()))
    rows = [(0, None), (1, None), (2, "x"), (3, None)]
    async with database.sink([described], create=[described]) as sink:
        await sink.write(batch(*(record(f"r{number}", "described", id=number, c=c) for number, c in rows)))

    stored = database.query("SELECT c FROM described ORDER BY id")
    assert stored == [("nothing",), ("nothing",), ("x",), ("nothing",)]


async def test_table_with_rules_is_held_whether_there_are_many_records_or_one(postgres: PostgresDatabase) -> None:
    postgres.execute("CREATE TABLE ruled (id INT); CREATE RULE nothing AS ON INSERT TO ruled DO INSTEAD NOTHING")
    async with postgres.sink(["ruled"]) as sink:
        answers = await sink.write(batch(*(record(f"r{number}", "ruled", id=number) for number in range(3))))

    assert [type(answer) for answer in answers] == [Held] * 3


async def test_names_may_hold_what_sql_and_drivers_take_for_their_own(database: Database) -> None:
    database.execute('CREATE TABLE "a%b" ("d%e:f" TEXT)')
    async with database.sink(["a%b"]) as sink:
        await sink.write(batch(*(record(f"r{number}", "a%b", **{"d%e:f": str(number)}) for number in range(2))))

    assert database.query('SELECT * FROM "a%b" ORDER BY 1') == [("0",), ("1",)]


async def test_batch_with_a_refused_record_is_left_to_the_careful_way(database: Database, sink: SqlSink) -> None:
    with quickly() as written:
        answers = await sink.write(batch(order(1), order(2, cents=-1), order(3)))

    assert written == [False]
    assert [answer.outcome for answer in answers if isinstance(answer, WriteReceipt)] == [WRITTEN, REJECTED, WRITTEN]
    assert (database.count("orders"), database.count("write_batcher_ledger")) == (2, 3)


async def test_batch_that_commit_refuses_is_written_in_parts(database: Database, sink: SqlSink) -> None:
    with quickly() as written:
        answers = await sink.write(batch(*(record(f"a{n}", "audits", name=f"a{n}", order_id=n // 3) for n in range(4))))

    assert not all(written)
    assert {answer.outcome for answer in answers if isinstance(answer, WriteReceipt)} == {REJECTED}
    assert database.count("audits") == 0


async def test_two_sinks_write_overlapping_batches_once(database: Database, sink: SqlSink) -> None:
    async with database.sink() as other:
        await asyncio.gather(
            *(
                one.write(batch(*map(order, range(start, start + 20)), batch_id=f"batch-{start}"))
                for start in range(0, 100, 10)
                for one in (sink, other)
            )
        )

    assert database.count("orders") == database.count("write_batcher_ledger") == 110


async def test_later_upsert_of_a_row_wins(database: Database, sink: SqlSink) -> None:
    requests = [record(f"s{n}", "stock", key="k", shop="here", sku=str(n % 3), pieces=n) for n in range(9)]
    with quickly() as written:
        await sink.write(batch(*requests))

    assert written == [True]
    assert database.query("SELECT sku, pieces FROM stock ORDER BY sku") == [("0", 6), ("1", 7), ("2", 8)]
