"""Requests with the same key are written in their order: over tables, sets of columns, refusals and holds."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tests.support.target_databases import (
    Database,
    PostgresDatabase,
    SqliteDatabase,
    batch,
    outcomes,
    record,
    statements,
    verbs,
)
from write_batcher.models import Held, Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.table_faults import MIN_ALIKE
from write_batcher.workers.embedded.postgres_server import PostgresServer

# Every row that is written leaves its name in `journal`, numbered: a record of the order.
TABLES = ("one", "two", "three:upsert")
GOOD, BAD, DOUBTFUL = "good", "bad", "doubtful"


def prepare(database: Database) -> None:
    number = {
        "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "postgresql": "INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    }
    database.execute(f"CREATE TABLE journal (number {number[database.kind]}, name TEXT)")
    for name in ("one", "two", "three"):
        database.execute(
            f"CREATE TABLE {name} (name TEXT NOT NULL, state TEXT CHECK (state <> 'bad'), more TEXT,"
            f" slot INTEGER {'PRIMARY KEY' if name == 'three' else ''})"
        )
        database.journal_writes(name)
        database.doubt_inserts(name, "new.state = 'doubtful'")


@st.composite
def requests(draw: st.DrawFn) -> list[WriteRequest]:
    return [
        record(
            f"r{number:02}",
            draw(st.sampled_from(["one", "two", "three"] * 3 + ["unknown"])),
            key=draw(st.sampled_from(["a", "a", "b", ""])),
            name=f"r{number:02}",
            state=draw(st.sampled_from([GOOD] * 4 + [BAD, DOUBTFUL])),
            slot=draw(st.integers(1, 3)),
            **draw(st.sampled_from([{}, {"more": "text"}])),
        )
        for number in range(draw(st.integers(2, MIN_ALIKE)))
    ]


@settings(max_examples=25)
@given(requests())
def test_order_within_each_key_is_kept_on_sqlite(submitted: list[WriteRequest]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(SqliteDatabase(Path(folder)), submitted)


@settings(max_examples=15)
@given(submitted=requests())
def test_order_within_each_key_is_kept_on_postgresql(
    postgres_server: PostgresServer, submitted: list[WriteRequest]
) -> None:
    check(PostgresDatabase.fresh(postgres_server), submitted)


def check(database: Database, submitted: list[WriteRequest]) -> None:
    prepare(database)
    first, held, second = asyncio.run(written_in_two_rounds(database, submitted))

    refused: set[str] = set()
    for request, answer in zip(submitted, first, strict=True):
        assert isinstance(answer, Held) == (request.request_id in {one.request_id for one in held})
        if isinstance(answer, WriteReceipt):
            assert request.order_key not in refused, "it overtook a held request"
            assert request.table != "unknown"
            assert (answer.outcome is Outcome.WRITTEN) == (request.record["state"] == GOOD)
        else:
            is_cause = request.table == "unknown" or request.record["state"] != GOOD
            assert is_cause or request.order_key in refused, "it is held for no reason"
            refused.add(request.order_key)
    assert all(isinstance(answer, WriteReceipt) for answer in second)

    journal = [name for (name,) in database.query("SELECT name FROM journal ORDER BY number")]
    answers = [*zip(submitted, first, strict=True), *zip(held, second, strict=True)]
    written = {one.request_id for one, answer in answers if outcomes([answer]) == [Outcome.WRITTEN]}
    assert sorted(journal) == sorted(written)
    by_key: dict[str, list[str]] = defaultdict(list)
    keys = {request.request_id: request.order_key for request in submitted}
    for name in journal:
        by_key[keys[name]].append(name)
    assert all(names == sorted(names) for names in by_key.values())


async def written_in_two_rounds(
    database: Database, submitted: list[WriteRequest]
) -> tuple[Sequence[WriteReceipt | Held], list[WriteRequest], Sequence[WriteReceipt | Held]]:
    """All at once; then those that were held, after all tables have been repaired."""
    async with database.sink(TABLES) as sink:
        first = await sink.write(batch(*submitted))
    held = [one for one, answer in zip(submitted, first, strict=True) if isinstance(answer, Held)]
    for name in ("one", "two", "three"):
        database.stop_doubting(name)
    database.execute("CREATE TABLE unknown (name TEXT, state TEXT, more TEXT, slot INTEGER)")
    database.journal_writes("unknown")
    async with database.sink([*TABLES, "unknown"]) as sink:
        return first, held, await sink.write(batch(*held, batch_id="batch-2"))


async def test_what_waits_for_a_refused_upsert_of_its_row_keeps_its_place(database: Database) -> None:
    """The bad record may be tried again, and must not overwrite the good one then; nor may that one be overtaken."""
    prepare(database)
    async with database.sink(TABLES) as sink:
        answers = await sink.write(
            batch(
                record("r0", "three", key="a", name="r0", slot=1, state=BAD),
                record("r1", "three", key="b", name="r1", slot=1),
                record("r2", "one", key="b", name="r2"),
                record("r3", "two", key="c", name="r3"),
            )
        )

    assert outcomes(answers) == [Outcome.REJECTED, *[Outcome.WRITTEN] * 3]
    names = [name for (name,) in database.query("SELECT name FROM journal ORDER BY number")]
    assert names.index("r1") < names.index("r2")


async def test_rows_of_one_key_with_alternating_columns_keep_their_order(database: Database) -> None:
    prepare(database)
    rows = [record(f"r{n}", "one", key="k", name=f"r{n}", **({"more": "x"} if n % 2 else {})) for n in range(6)]
    async with database.sink(TABLES) as sink:
        await sink.write(batch(*rows))

    assert database.query("SELECT name FROM journal ORDER BY number") == [(f"r{n}",) for n in range(6)]


@pytest.mark.usefixtures("through_sqlalchemy")
async def test_rows_of_one_key_and_one_shape_need_one_statement(database: Database) -> None:
    prepare(database)
    async with database.sink(TABLES) as sink:
        with statements() as sent:
            await sink.write(batch(*(record(f"r{n:02}", "one", key="k", name=f"r{n:02}") for n in range(50))))

    assert verbs(sent).count("INSERT") == 2  # the ledger's and the table's
    assert database.query("SELECT name FROM journal ORDER BY number") == [(f"r{n:02}",) for n in range(50)]
