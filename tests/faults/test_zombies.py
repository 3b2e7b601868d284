"""Two drains of one partition at once: a process or event loop freezes, is replaced, and comes back."""

import signal

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena
from tests.support.target_databases import Database, PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy, WriteRequest
from write_batcher.queue.wire_form import Codec

CALLERS = 12
KEYS, STEPS = ("a", "b", "c"), 20
IDLE_TRANSACTION_S = 30  # then PostgreSQL ends the transaction of a frozen process


async def test_batcher_frozen_after_a_commit_does_no_harm_when_it_thaws(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, zombie = await arena.start_workers("--freeze", "after_commit")  # a batch committed, no caller confirmed
        await arena.start_callers(CALLERS)
        await eventually(zombie.is_frozen, within_s=60)
        successor = await arena.start_worker("batcher")
        await arena.start_callers(CALLERS)
        await eventually(successor.drains_started, within_s=60)
        await arena.until_written(2 * CALLERS)
        await eventually(lambda: _duplicates(arena), within_s=60)
        zombie.send(signal.SIGCONT)
        await arena.start_callers(CALLERS)
        assert (await arena.audit()).completed == 3 * CALLERS


@pytest.mark.parametrize(
    ("confirm_by", "outlived"),
    [
        pytest.param(ConfirmBy.SIGNAL, False, id="it commits"),
        pytest.param(ConfirmBy.COMPLETION, True, id="the database has ended it"),
    ],
)
async def test_batcher_frozen_in_a_transaction_does_no_harm_when_it_thaws(
    open_arena: OpenArena, postgres_target: PostgresDatabase, confirm_by: ConfirmBy, outlived: bool
) -> None:
    async with open_arena(postgres_target, confirm_by=confirm_by) as arena:
        _, zombie = await arena.start_workers("--freeze", "before_commit")
        await arena.start_callers(CALLERS)
        await eventually(zombie.is_frozen, within_s=60)
        # Otherwise the cut could keep an append from starting, which Temporal notices only much later.
        await arena.until_appended(CALLERS)
        [(session,)] = postgres_target.query("SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'")
        arena.temporal_proxy.cut()  # or one of the zombie's open polls would get the drain, not the successor
        successor = await arena.start_worker("batcher")
        waiting = f"SELECT pid FROM pg_stat_activity WHERE {session} = ANY (pg_blocking_pids(pid))"
        await eventually(lambda: len(postgres_target.query(waiting)), within_s=IDLE_TRANSACTION_S - 5)
        assert arena.rows() == 0
        if outlived:
            await arena.until_written(CALLERS)
            assert not postgres_target.query(f"SELECT pid FROM pg_stat_activity WHERE pid = {session}")
        zombie.send(signal.SIGCONT)
        await arena.start_callers(CALLERS)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert outlived or successor.logged(" duplicate\n")
        assert not [worker for worker in arena.workers if worker.logged("deadlock")]


@pytest.mark.parametrize("point", ["before_write", "before_commit"])
async def test_order_of_each_key_survives_a_frozen_batcher_that_thaws(
    open_arena: OpenArena, postgres_target: PostgresDatabase, point: str
) -> None:
    """Each request overwrites the row of its key; the journal keeps everything that was written, in order."""
    postgres_target.execute("CREATE TABLE steps (key TEXT PRIMARY KEY, name TEXT NOT NULL)")
    postgres_target.execute("CREATE TABLE journal (id SERIAL PRIMARY KEY, name TEXT NOT NULL)")
    postgres_target.journal_writes("steps")
    async with open_arena(postgres_target, tables=("steps:upsert",)) as arena:
        zombie = await arena.start_worker("batcher", "--freeze", point)
        await arena.until_batcher_ready()
        await _append_steps(arena, 0, STEPS)
        await eventually(zombie.is_frozen, within_s=60)
        await _append_steps(arena, STEPS, 2 * STEPS)
        arena.temporal_proxy.cut()  # or one of the zombie's open polls would get the drain, not the successor
        successor = await arena.start_worker("batcher")
        await eventually(lambda: successor.logged("batch ") or successor.logged("waits for its sink"), within_s=60)
        zombie.send(signal.SIGCONT)
        await _append_steps(arena, 2 * STEPS, 4 * STEPS)
        await arena.until_queued(0)
    written = [name for (name,) in postgres_target.query("SELECT name FROM journal ORDER BY id")]
    for key in KEYS:
        assert [name for name in written if name.startswith(key)] == [f"{key}{step:04}" for step in range(4 * STEPS)]


async def _append_steps(arena: Arena, first: int, end: int) -> None:
    """Append requests of every key, one after the other, that no caller waits for."""
    codec = Codec(arena.client.data_converter)
    for step in range(first, end):
        for key in KEYS:
            record = {"key": key, "name": f"{key}{step:04}"}
            request = WriteRequest(request_id=f"{key}{step}", key=key, table="steps", record=record)
            await arena.queue.append(await codec.encode(request), max_backlog=1_000_000)


async def test_batcher_recovers_from_a_blocked_event_loop(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.start_workers("--block-s", "6")
        await arena.start_callers(CALLERS)
        assert (await arena.audit()).completed == CALLERS
        assert batcher.drains_started() >= 2
        assert await _duplicates(arena) > 0


@pytest.mark.fast
@pytest.mark.parametrize("end", ["--kill-heartbeat", "--cancel-heartbeat"])
async def test_drain_whose_heartbeat_dies_ends_and_is_restarted(
    open_arena: OpenArena, sqlite_target: Database, end: str
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.start_workers(end)
        await arena.start_callers(CALLERS)
        await eventually(lambda: batcher.drains_started() >= 2, within_s=60)
        assert await _ended_by_itself(arena)
        assert (await arena.audit()).completed == CALLERS


async def _duplicates(arena: Arena) -> int:
    """Count the entries that a drain found to be written already."""
    return (await arena.queue.statistics()).counters.get("duplicate", 0)


async def _ended_by_itself(arena: Arena) -> bool:
    """Whether the previous drain failed by itself, rather than by a heartbeat timeout of the server."""
    batcher = await arena.client.get_workflow_handle(arena.batcher_workflow_id).describe()
    [drain] = batcher.raw_description.pending_activities
    return drain.last_failure.HasField("application_failure_info")
