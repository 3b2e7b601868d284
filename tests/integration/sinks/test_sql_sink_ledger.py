"""The ledger as a whole on every database: its identity, versions and shape, how long it remembers, and whom."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo

import pytest

from tests.support.target_databases import QUEUE, Database, PostgresDatabase, batch, order, outcomes, record
from write_batcher.errors import ConfigurationError
from write_batcher.models import MAX_REQUEST_AGE, Outcome, ReplyAddress, WriteRequest
from write_batcher.sinks.protocol import IdentifiedSink, PrunableSink
from write_batcher.sinks.sql import batch_write
from write_batcher.sinks.sql.schema import ddl
from write_batcher.sinks.sql.sink import SqlSink

MINUTE, WEEK = timedelta(minutes=1), timedelta(days=7)


def asked_by(workflow_id: str, asked_ms: int, *, cents: int = 100) -> WriteRequest:
    attempt = f"{workflow_id}-{asked_ms}"
    reply = ReplyAddress(workflow_id=workflow_id, run_id="run", attempt=attempt)
    return replace(order(1, cents=cents), reply=reply, asked_ms=asked_ms)


async def test_sink_says_what_it_is_and_where_records_go(sink: SqlSink) -> None:
    assert isinstance(sink, IdentifiedSink)
    assert isinstance(sink, PrunableSink)
    assert len(sink.sink_id) == 32
    assert sink.tables == dict.fromkeys(("orders", "items", "audits", "nodes"), "insert") | {"stock": "upsert"}


async def test_database_keeps_its_sink_id_over_restarts_and_sinks(database: Database, sink: SqlSink) -> None:
    async with database.sink() as other:
        assert other.sink_id == sink.sink_id
    database.execute("DROP TABLE write_batcher_meta")
    async with database.sink() as another:
        assert another.sink_id != sink.sink_id


async def test_printed_ddl_is_what_a_sink_creates(database: Database) -> None:
    for statement in ddl(database.url).split(";\n"):
        database.execute(statement)
    printed = database.query("SELECT name, value FROM write_batcher_meta ORDER BY name")

    async with database.sink() as sink:
        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]

    assert printed == [("schema_version", "2"), ("sink_id", sink.sink_id)]
    assert len(sink.sink_id) == 32
    for statement in ddl(database.url).split(";\n"):
        database.execute(statement)  # does nothing
    assert printed == database.query("SELECT name, value FROM write_batcher_meta ORDER BY name")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("ALTER TABLE write_batcher_ledger RENAME COLUMN decisions TO decided", r"no column 'decisions'"),
        ("UPDATE write_batcher_meta SET value = '3' WHERE name = 'schema_version'", "version '3', .*upgrade write-b"),
        ("UPDATE write_batcher_meta SET value = '1' WHERE name = 'schema_version'", "version '1', .*rename or drop"),
        ("UPDATE write_batcher_meta SET value = 'x' WHERE name = 'schema_version'", "version 'x', .*rename or drop"),
    ],
)
async def test_ledger_of_another_shape_or_version_is_refused(database: Database, broken: str, message: str) -> None:
    async with database.sink():
        pass
    database.execute(broken)

    with pytest.raises(ConfigurationError, match=message):
        async with database.sink():
            pass


async def test_ledger_of_before_the_first_release_is_refused_and_left_alone(database: Database) -> None:
    database.execute("CREATE TABLE write_batcher_ledger (request_id TEXT PRIMARY KEY, written_at TIMESTAMP)")

    with pytest.raises(ConfigurationError, match=r"no column 'queue'.*rename or drop it.*`write-batcher schema print`"):
        async with database.sink():
            pass

    with pytest.raises(Exception, match="write_batcher_meta"):
        database.query("SELECT * FROM write_batcher_meta")


@pytest.mark.parametrize(
    "harmless",
    ["ALTER TABLE write_batcher_ledger ADD COLUMN mine TEXT NOT NULL DEFAULT ''", "DELETE FROM write_batcher_meta"],
)
async def test_ledger_with_a_column_more_or_no_identity_yet_is_used(database: Database, harmless: str) -> None:
    async with database.sink():
        pass
    database.execute(harmless)

    async with database.sink() as sink:
        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("queue VARCHAR(20)", r"column 'queue' is VARCHAR\(20\), not TEXT"),
        ("expires_at TEXT", "column 'expires_at' is TEXT, not DATETIME"),
        ("batch_id TEXT, mine TEXT NOT NULL", "column 'mine' is required"),
    ],
)
async def test_ledger_with_unfit_columns_is_refused(database: Database, definition: str, message: str) -> None:
    name = definition.split()[0]
    script = ddl(database.url).split(";\n")
    lines = [f"    {definition}," if line.strip().startswith(f"{name} ") else line for line in script[0].splitlines()]
    database.execute("\n".join(lines))

    with pytest.raises(ConfigurationError, match=message):
        async with database.sink():
            pass


async def test_queues_of_one_database_know_nothing_of_each_others_ids(database: Database, sink: SqlSink) -> None:
    first = record("a", "stock", shop="here", sku="a")
    second = record("a", "stock", shop="there", sku="b")

    answers = [*await sink.write(batch(first)), *await sink.write(batch(second, queue="staging/orders"))]

    assert outcomes(answers) == [Outcome.WRITTEN] * 2
    for request, queue in ((first, QUEUE), (second, "staging/orders")):
        assert outcomes(await sink.write(batch(request, queue=queue))) == [Outcome.DUPLICATE]
    assert (await sink.settle(first, queue="third/orders")).outcome is Outcome.WITHDRAWN
    assert database.query("SELECT queue FROM write_batcher_ledger ORDER BY queue") == [
        (QUEUE,),
        ("staging/orders",),
        ("third/orders",),
    ]


async def test_no_worker_forgets_for_another(database: Database) -> None:
    """Two queues in one database, or one whose window is lowered by a rolling deploy."""
    async with (
        database.sink(deduplication_window=WEEK) as patient,
        database.sink(deduplication_window=13 * MINUTE) as short,
    ):
        await patient.write(batch(order(1)))
        await short.write(batch(order(2), queue="default/other"))
        database.age_ledger(days=8)  # beyond the short one's window, longest age and margin

        assert await short.prune() == 0
        database.age_ledger(days=1)
        assert await short.prune() == 1

        assert outcomes(await short.write(batch(order(1)))) == [Outcome.DUPLICATE]


async def test_row_that_is_written_anew_is_never_kept_shorter(database: Database) -> None:
    async with database.sink(deduplication_window=WEEK) as patient, database.sink(deduplication_window=MINUTE) as hasty:
        await patient.settle(asked_by("a", 1000), queue=QUEUE)
        before = database.ledger("expires_at")
        await hasty.settle(asked_by("b", 1000), queue=QUEUE)
        assert database.ledger("expires_at") == before
        await hasty.write(batch(asked_by("c", 1000)))
        assert database.ledger("outcome, expires_at") == [("written", *before[0])]


async def test_row_is_kept_for_the_window_and_the_longest_age_of_an_entry(database: Database, sink: SqlSink) -> None:
    """Written on day 0, submitted again on day 6, its partition paused until day 13."""
    await sink.write(batch(order(1)))
    database.age_ledger(days=(WEEK + MAX_REQUEST_AGE).days)

    assert await sink.prune() == 0
    assert outcomes(await sink.write(batch(order(1), batch_id="batch-2"))) == [Outcome.DUPLICATE]
    database.age_ledger(days=2)
    assert await sink.prune() == 1


@pytest.mark.parametrize("days", [-30, 30])
async def test_row_is_dated_by_the_later_clock_of_database_and_worker(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    class Clock:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime.now(zone) + timedelta(days=days)

    monkeypatch.setattr(batch_write, "datetime", Clock)
    async with postgres.sink() as sink:
        await sink.write(batch(order(1)))

    ((kept,),) = postgres.query("SELECT expires_at - now() FROM write_batcher_ledger")
    assert round(kept / timedelta(days=1)) == 15 + max(days, 0)


async def test_withdrawals_beyond_what_a_row_holds_stay_bound(database: Database, sink: SqlSink) -> None:
    callers = [asked_by(f"workflow-{number}", 1_000 + number) for number in range(230)]
    for caller in callers:
        assert (await sink.settle(caller, queue=QUEUE)).outcome is Outcome.WITHDRAWN

    for caller in (callers[0], callers[29], callers[100], callers[-1]):
        assert outcomes(await sink.write(batch(caller))) == [Outcome.WITHDRAWN]
    assert outcomes(await sink.write(batch(asked_by("later", 5_000)))) == [Outcome.WRITTEN]
    assert database.count("orders") == 1


async def test_corrected_record_of_the_same_run_is_written(database: Database, sink: SqlSink) -> None:
    """Nothing was written under the id, so nothing conflicts."""
    assert outcomes(await sink.write(batch(asked_by("w", 1_000, cents=-1)))) == [Outcome.REJECTED]

    assert outcomes(await sink.write(batch(asked_by("w", 2_000, cents=5)))) == [Outcome.WRITTEN]
    assert database.query("SELECT cents FROM orders") == [(5,)]


async def test_replay_of_a_rejected_request_is_written(database: Database, sink: SqlSink) -> None:
    bad = asked_by("w", 1_000, cents=-1)
    await sink.write(batch(bad))
    assert outcomes(await sink.write(batch(bad))) == [Outcome.REJECTED]

    corrected = replace(asked_by("w", 1_000, cents=3), replayed=True)

    assert outcomes(await sink.write(batch(corrected))) == [Outcome.WRITTEN]
    assert database.query("SELECT cents FROM orders") == [(3,)]


async def test_replay_of_a_shared_id_for_a_withdrawn_caller_says_so(database: Database, sink: SqlSink) -> None:
    rejected, withdrawn = asked_by("first", 1_000), asked_by("second", 2_000)
    await sink.settle(rejected, queue=QUEUE, refused="poison")
    await sink.settle(withdrawn, queue=QUEUE)

    assert outcomes(await sink.write(batch(replace(withdrawn, replayed=True)))) == [Outcome.WITHDRAWN]
    assert outcomes(await sink.write(batch(replace(rejected, replayed=True)))) == [Outcome.WRITTEN]
    assert database.count("orders") == 1


async def test_own_row_is_recognized_whatever_its_hash(sink: SqlSink) -> None:
    """The caller changed nothing: its converter did, between the write and the settling."""
    written = replace(asked_by("w", 1_000), record_hash="as the batcher saw it")
    await sink.write(batch(written))

    settled = await sink.settle(replace(written, record_hash="as the caller sees it"), queue=QUEUE)

    assert (settled.outcome, settled.record_hash) == (Outcome.WRITTEN, "as the caller sees it")


async def test_two_workers_that_open_at_once_agree_on_the_sink_id(database: Database) -> None:
    async def sink_id() -> str:
        async with database.sink() as sink:
            return sink.sink_id

    assert len(set(await asyncio.gather(*(sink_id() for _ in range(6))))) == 1
