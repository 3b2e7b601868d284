"""Every contender through small versions of the scenarios, on real servers: what must hold whoever wins."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.support.target_databases import NO_SYNC
from write_batcher.compare.arena import Arena, arena
from write_batcher.compare.contenders import design_of
from write_batcher.compare.contenders.callers import DirectWrite
from write_batcher.compare.contenders.direct_design import DirectWrites
from write_batcher.compare.database_meter import DatabaseMeter
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.results import Contender
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios import ceiling, crash, growth, idle, load, poison
from write_batcher.compare.servers import create_table, embedded_servers
from write_batcher.config import load_settings
from write_batcher.workers.embedded.postgres_server import PostgresServer

pytestmark = pytest.mark.thorough  # worker processes of all contenders

SCALE = Scale(workflows=15, requests=250, idle=timedelta(seconds=1))
# A start and two business activities; 17 events, as in the recorded history of MainWorkflow without its write.
BASELINE = Baseline(actions=3.0, events=17.0, bytes=0.0)
ACTIONS = {Contender.DIRECT: 1, Contender.SIGNAL: 3, Contender.QUEUE: 3, Contender.QUEUE_COMPLETION: 1}
# One of their three actions is a timer, which a receipt that comes early makes unnecessary.
MAY_SAVE_A_TIMER = {Contender.SIGNAL, Contender.QUEUE}
MAX_BATCHER_ACTIONS = 8  # heartbeats; with signal, an activity and a timer per batch
WITH_BATCHER = [Contender.SIGNAL, Contender.QUEUE]

Arenas = dict[Contender, Arena]


class NoView:
    def expect(self, total: int) -> None:
        pass

    def advance(self, number: int = 1) -> None:
        pass


@pytest.fixture(scope="module")
async def arenas() -> AsyncIterator[Arenas]:
    """An arena for each contender, opened concurrently. The tests share them; `fresh` keeps their rows apart."""
    shared = load_settings(max_items=5, max_wait="500ms", partitions=1, log_format="json")
    stacks = [AsyncExitStack() for _ in Contender]

    async def make(contender: Contender, stack: AsyncExitStack) -> Arena:
        settings = design_of(contender).settings(shared)
        if contender is Contender.DIRECT:  # it retries a bad record until the timeout
            settings = settings.model_copy(update={"confirm_timeout": timedelta(seconds=6)})
        servers = await stack.enter_async_context(embedded_servers(settings, "sqlite", connection_limit=20))
        return await stack.enter_async_context(arena(contender, servers, NoView()))

    try:
        yield dict(zip(Contender, await asyncio.gather(*map(make, Contender, stacks)), strict=True))
    finally:
        await asyncio.gather(*(stack.aclose() for stack in stacks))


def fresh(arenas: Arenas, contender: Contender) -> Arena:
    arenas[contender].series = f"compare-{secrets.token_hex(4)}-"
    return arenas[contender]


async def test_load_has_every_row_once_and_the_actions_of_the_write_alone(arenas: Arenas) -> None:
    measured = await asyncio.gather(
        *(load.measure(fresh(arenas, contender), SCALE, BASELINE) for contender in Contender)
    )
    for contender, run in zip(Contender, measured, strict=True):
        figures = run.figures
        counted = {name: figures[name] for name in ("completed", "failed", "rows", "duplicates", "lost")}
        assert counted == {"completed": 15, "failed": 0, "rows": 15, "duplicates": 0, "lost": 0}, contender
        actions = figures["actions_per_write"]
        assert actions is not None
        least = ACTIONS[contender] - (contender in MAY_SAVE_A_TIMER)
        assert least <= actions <= ACTIONS[contender] + MAX_BATCHER_ACTIONS / 15, contender
        assert len(run.samples["latency_ms"]) == 15
        assert figures["connection_limit"] is None
        used = (figures["transactions"], figures["connections_opened"])
        if contender is Contender.DIRECT:
            assert used == (15, 15)
        else:
            assert used[0] is not None
            assert 3 <= used[0] <= 8
            assert used[1] == 0


async def test_growth_samples_the_history_of_the_batcher(arenas: Arenas) -> None:
    measured = await asyncio.gather(
        *(growth.measure(fresh(arenas, contender), SCALE, BASELINE) for contender in WITH_BATCHER)
    )
    for run in measured:
        assert run.figures["writes"] == 250
        assert run.samples["points"][-1]["writes"] == 250
        assert run.figures["continued_as_new"] == 0
    by_signal, by_queue = (run.samples["points"] for run in measured)
    assert by_signal[-1]["events"] - by_signal[0]["events"] > 250
    assert by_queue[-1]["events"] - by_queue[0]["events"] <= 1


async def test_ceiling_writes_every_accepted_request_once(arenas: Arenas) -> None:
    measured = await asyncio.gather(
        *(ceiling.measure(fresh(arenas, contender), SCALE, BASELINE) for contender in WITH_BATCHER)
    )
    for run in measured:
        assert {name: run.figures[name] for name in ("offered", "accepted", "refused", "rows", "duplicates")} == {
            "offered": 250,
            "accepted": 250,
            "refused": 0,
            "rows": 250,
            "duplicates": 0,
        }
        assert run.samples["points"][-1]["rows"] == 250


async def test_poison_fails_the_caller_of_the_bad_record_alone(arenas: Arenas) -> None:
    measured = await asyncio.gather(
        *(poison.measure(fresh(arenas, contender), SCALE, BASELINE) for contender in Contender)
    )
    for contender, run in zip(Contender, measured, strict=True):
        counted = {name: run.figures[name] for name in ("bad", "failed", "failed_good", "rows", "duplicates")}
        assert counted == {"bad": 1, "failed": 1, "failed_good": 0, "rows": 14, "duplicates": 0}, contender
    told = " ".join(arenas[Contender.DIRECT].worker_notes())  # about the activity that failed
    assert "the main worker logged" in told
    assert "write_directly" in told


async def test_idle_contender_without_a_batcher_costs_nothing(arenas: Arenas) -> None:
    run = await idle.measure(fresh(arenas, Contender.DIRECT), SCALE, BASELINE)
    assert (run.figures["actions"], run.figures["events"], run.figures["actions_per_day"]) == (0, 0, 0)


async def test_crash_of_the_writer_loses_and_duplicates_nothing_of_queue(arenas: Arenas) -> None:
    # Not direct: its callers would wait a minute for the business steps that died with their worker.
    one = fresh(arenas, Contender.QUEUE)
    run = await crash.measure(one, replace(SCALE, workflows=60), BASELINE)
    figures = run.figures
    counted = {name: figures[name] for name in ("completed", "failed", "rows", "duplicates", "lost", "failed_written")}
    assert counted == {"completed": 60, "failed": 0, "rows": 60, "duplicates": 0, "lost": 0, "failed_written": 0}
    killed, restarted, recovery = (figures[name] for name in ("killed_at_s", "restarted_at_s", "recovery_s"))
    assert killed is not None
    assert restarted is not None
    assert recovery is not None
    assert restarted - killed >= crash.RESTART_AFTER.total_seconds()
    assert killed + recovery > restarted  # nobody else writes
    points = run.samples["points"]
    assert 20 <= max(point["rows"] for point in points if point["s"] < restarted) < 60  # killed in the middle
    assert points[-1]["rows"] == 60


async def test_refused_connections_of_direct_writes_are_counted_as_errors(tmp_path: Path) -> None:
    limit, writes = 5, 12
    async with PostgresServer(tmp_path, max_connections=limit, extra=NO_SYNC) as server:
        await create_table(server.url())
        engine = create_async_engine(server.url(), poolclass=NullPool)
        direct, meter = DirectWrites(engine), DatabaseMeter()
        refused = 0

        async def write(number: int) -> None:
            nonlocal refused
            try:
                await direct.write_directly(DirectWrite(workflow_id=f"caller-{number}", item="tea", cents=1))
            except OperationalError:
                refused += 1

        try:
            await asyncio.gather(*map(write, range(writes)))
            # All connections are held, so that one more is refused however fast the others were.
            async with AsyncExitStack() as stack:
                with contextlib.suppress(OperationalError):
                    for _ in range(limit + 1):
                        await stack.enter_async_context(engine.connect())
                await write(writes)
        finally:
            meter.stop()
        use = meter.take()
    assert refused >= 1
    assert use.errors == refused + 1  # and the one that ended the loop above
    assert use.connections_opened == writes + 1 - refused + limit
    assert use.connections_peak == limit
