"""Continue-as-new, several batchers, and the monitor of batchers."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.support.signal_callers import Batching, batching, confirmations_of, limits, request, settings_of
from tests.support.target_databases import SqliteDatabase
from tests.support.waiting import eventually
from write_batcher.compare.signal_batcher import batcher_limits
from write_batcher.compare.signal_batcher.batcher_monitor import Monitor
from write_batcher.compare.signal_batcher.roles import make_main_worker, start_main_workflows
from write_batcher.compare.signal_batcher.wire import batcher_of
from write_batcher.config import Settings
from write_batcher.workers.embedded.starter import wait_for
from write_batcher.workers.embedded.temporal_server import TemporalServer

pytestmark = pytest.mark.thorough

REQUESTS = 5_000
WAVES = 5


@pytest.fixture
def settings(name: str, sqlite: SqliteDatabase) -> Settings:
    return settings_of(name, sqlite)


async def test_thousands_of_requests_are_written_once_through_continue_as_new(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    async with (
        sqlite.sink() as sink,
        batching(client, settings, sink, limits(max_wait_s=1, signals_per_run=600)) as batch,
    ):
        for cycle in range(WAVES):
            # More than one run accepts; how many runs it takes depends on the machine.
            wave = range(cycle * REQUESTS // WAVES, (cycle + 1) * REQUESTS // WAVES)
            async with asyncio.timeout(60):
                await batch.signal(*map(request, wave))
            await eventually(lambda cycle=cycle: _cycle_is_at_least(batch, cycle + 1))  # type: ignore[misc]
        await eventually(lambda: sqlite.count("orders") == REQUESTS, within_s=60)
        await eventually(batch.is_idle)
        stats = await batch.stats()
    assert stats.continue_as_new_cycle >= WAVES >= 3
    assert stats.processed_batches >= REQUESTS / 100
    assert sqlite.query("SELECT count(DISTINCT order_id), min(order_id), max(order_id) FROM orders") == [
        (REQUESTS, 0, REQUESTS - 1)
    ]
    assert sqlite.query("SELECT outcome, count(*) FROM write_batcher_ledger GROUP BY outcome") == [
        ("written", REQUESTS)
    ]


async def test_run_hands_over_written_ids_and_pending_writes(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    async with (
        sqlite.sink() as sink,
        batching(client, settings, sink, limits(max_items=4, max_wait_s=3600, signals_per_run=6)) as batch,
    ):
        await batch.signal(*map(request, range(4)))
        await eventually(lambda: sqlite.count("orders") == 4)
        await batch.signal(request(4), request(5))
        await eventually(lambda: _cycle_is(batch, 1))
        stats = await batch.stats()
        assert (stats.pending_writes, stats.processed_batches, stats.processed_request_ids_count) == (2, 1, 4)
        assert stats.session_signals_received == 0
        # Two repeated signals, one of them from the run before, and the two that complete the batch.
        await batch.signal(request(0), request(4), request(6), request(7))
        await eventually(lambda: sqlite.count("orders") == 8)
        await eventually(batch.is_idle)
        assert (await batch.stats()).processed_batches == 2


async def _cycle_is_at_least(batch: Batching, cycle: int) -> bool:
    return (await batch.stats()).continue_as_new_cycle >= cycle


async def _cycle_is(batch: Batching, cycle: int) -> bool:
    return (await batch.stats()).continue_as_new_cycle == cycle


async def test_every_caller_is_confirmed_through_continue_as_new(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    async with (
        sqlite.sink() as sink,
        batching(client, settings, sink, limits(max_items=7, signals_per_run=10)) as batch,
    ):
        confirmations = []
        for cycle in range(1, 4):
            confirmations += await confirmations_of(await batch.call(range(cycle * 20, cycle * 20 + 20)))
            await eventually(lambda cycle=cycle: _cycle_is_at_least(batch, cycle))  # type: ignore[misc]
    assert Counter(one.status for one in confirmations) == {"success": 60}
    assert sqlite.count("orders") == 60


async def test_batcher_whose_new_runs_do_not_help_stops_continuing_as_new(
    tmp_path: Path, settings: Settings, sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_limits, "MAX_IDLE_RUNS", 3)  # the server waits a second before each
    always_suggested = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=1")
    async with TemporalServer(tmp_path, in_memory=True, extra=always_suggested) as server:
        client = await Client.connect(server.address)
        async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=1)) as batch:
            await eventually(lambda: _cycle_is(batch, 2))
            run_id = (await batch.batcher().describe()).run_id
            assert (await batch.stats()).is_continue_suggested
            assert (await batch.batcher().describe()).run_id == run_id
            await batch.signal(request(1))
            await eventually(lambda: sqlite.count("orders") == 1)


async def test_request_that_the_server_refuses_is_submitted_again(
    tmp_path: Path, settings: Settings, sqlite: SqliteDatabase
) -> None:
    # The server refuses the 31st signal of a run; the batcher continues as new after 29.
    few = ("--dynamic-config-value", "history.maximumSignalsPerExecution=30")
    settings = settings.model_copy(update={"tables": ("main_writes",)})
    sqlite.execute("CREATE TABLE main_writes (id INTEGER PRIMARY KEY, workflow_id TEXT, item TEXT, cents INTEGER)")
    async with TemporalServer(tmp_path, in_memory=True, extra=few) as server:
        client = await Client.connect(server.address)
        async with (
            sqlite.sink(["main_writes"]) as sink,
            batching(client, settings, sink, limits(max_items=50, max_wait_s=1, signals_per_run=29)),
            make_main_worker(client, settings),
        ):
            handles = await start_main_workflows(client, settings, "main-", 60, on_started=lambda: None)
            outcomes = await wait_for(handles, on_ended=lambda: None)
    assert (outcomes.completed, outcomes.failed) == (60, 0)
    assert sqlite.query("SELECT count(*), count(DISTINCT workflow_id) FROM main_writes") == [(60, 60)]


async def test_batchers_share_the_callers_by_key(client: Client, settings: Settings, sqlite: SqliteDatabase) -> None:
    settings = settings.model_copy(update={"partitions": 3, "tables": ("main_writes",)})
    sqlite.execute("CREATE TABLE main_writes (id INTEGER PRIMARY KEY, workflow_id TEXT, item TEXT, cents INTEGER)")
    async with (
        sqlite.sink(["main_writes"]) as sink,
        batching(client, settings, sink) as batch,
        make_main_worker(client, settings),
    ):
        handles = await start_main_workflows(client, settings, f"{settings.queue}-", 30, on_started=lambda: None)
        outcomes = await wait_for(handles, on_ended=lambda: None)
        signals = [(await batch.stats(number)).session_signals_received for number in range(3)]
    assert (outcomes.completed, outcomes.failed) == (30, 0)
    assert sum(signals) == 30
    assert all(signals)
    for request_id, batch_id in sqlite.ledger("request_id, batch_id"):
        assert batch_id.rpartition("/")[0] == batcher_of(request_id, queue=settings.queue, batchers=3)


async def test_monitor_follows_a_batcher_into_its_next_run(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    monitor = Monitor(client, settings.queue, 2)
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=2, signals_per_run=3)) as batch:
        first, missing = await monitor.look()
        assert (first.state, first.previous_run_id) == ("running", None)
        assert (missing.batcher, missing.state) == (f"{settings.queue}/batcher-main-1", "not running")
        assert "signal-batcher worker batcher" in (missing.problem or "")
        await batch.signal(*map(request, range(3)))
        await eventually(lambda: _cycle_is(batch, 1))
        second, _ = await monitor.look()
        third, _ = await monitor.look()
    assert second.previous_run_id == first.run_id != second.run_id
    assert (third.previous_run_id, third.run_id) == (None, second.run_id)
    assert second.stats is not None
    assert (second.stats.continue_as_new_cycle, second.stats.session_signals_received) == (1, 0)


async def test_monitor_reports_a_batcher_that_no_worker_answers_for(
    client: Client, settings: Settings, sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("write_batcher.compare.signal_batcher.batcher_monitor.QUERY_TIMEOUT", timedelta(seconds=1))
    async with sqlite.sink() as sink, batching(client, settings, sink):
        pass
    [view] = await Monitor(client, settings.queue, 1).look()
    assert (view.state, view.stats) == ("running", None)
    assert "cannot be asked" in (view.problem or "")
