"""Two drains of one partition at once: a process that froze, or whose event loop did, comes back after its time."""

import signal
from pathlib import Path

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena, Worker
from tests.faults.test_database_away import drains
from tests.support.target_databases import Database, PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy

CALLERS = 12
ENDED_AFTER_S = 30  # by PostgreSQL: a transaction whose process is frozen


async def test_batcher_that_was_frozen_and_replaced_does_no_harm_when_it_thaws(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, zombie = await arena.run_both("--freeze", "after_commit")  # with a batch that is committed, and nobody told
        await arena.start(CALLERS)
        await eventually(lambda: _is_stopped(zombie), within_s=60)
        successor = await arena.run("batcher")
        await arena.start(CALLERS)
        await eventually(lambda: drains(successor), within_s=60)
        await arena.written(2 * CALLERS)
        await eventually(lambda: _duplicates(arena), within_s=60)
        zombie.send(signal.SIGCONT)
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == 3 * CALLERS


@pytest.mark.parametrize(
    ("confirm_by", "outlived"),
    [
        pytest.param(ConfirmBy.SIGNAL, False, id="it commits"),
        pytest.param(ConfirmBy.COMPLETION, True, id="the database has ended it"),
    ],
)
async def test_batcher_that_was_frozen_in_a_transaction_and_replaced_does_no_harm_when_it_thaws(
    open_arena: OpenArena, postgres_target: PostgresDatabase, confirm_by: ConfirmBy, outlived: bool
) -> None:
    async with open_arena(postgres_target, confirm_by=confirm_by) as arena:
        _, zombie = await arena.run_both("--freeze", "before_commit")
        await arena.start(CALLERS)
        await eventually(lambda: _is_stopped(zombie), within_s=60)
        await arena.appended(CALLERS)  # an activity that the cut kept from beginning would only be missed much later
        [(session,)] = postgres_target.query("SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'")
        arena.temporal_proxy.cut()  # or each poll that it has open would get the drain before the successor
        successor = await arena.run("batcher")
        waiting = f"SELECT pid FROM pg_stat_activity WHERE {session} = ANY (pg_blocking_pids(pid))"
        await eventually(lambda: len(postgres_target.query(waiting)), within_s=ENDED_AFTER_S - 5)
        assert arena.rows() == 0
        if outlived:
            await arena.written(CALLERS)
            assert not postgres_target.query(f"SELECT pid FROM pg_stat_activity WHERE pid = {session}")
        zombie.send(signal.SIGCONT)
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert outlived or successor.says(" duplicate\n")
        assert not [worker for worker in arena.workers if worker.says("deadlock")]


async def test_batcher_whose_event_loop_is_blocked_goes_on_afterwards(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.run_both("--block-s", "6")
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == CALLERS
        assert drains(batcher) >= 2
        assert await _duplicates(arena) > 0


@pytest.mark.parametrize("end", ["--kill-heartbeat", "--cancel-heartbeat"])
async def test_drain_whose_heartbeat_dies_ends_and_is_started_again(
    open_arena: OpenArena, sqlite_target: Database, end: str
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both(end)
        await arena.start(CALLERS)
        await eventually(lambda: drains(batcher) >= 2, within_s=60)
        assert await _ended_by_itself(arena)
        assert (await arena.audit()).completed == CALLERS


def _is_stopped(worker: Worker) -> bool:
    status = Path(f"/proc/{worker.process.pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "T"


async def _duplicates(arena: Arena) -> int:
    """Entries that were removed by a drain that found them written already."""
    return (await arena.queue.statistics()).counters.get("duplicate", 0)


async def _ended_by_itself(arena: Arena) -> bool:
    """Whether the drain before the current one failed, and did not only fall silent until the server gave it up."""
    batcher = await arena.client.get_workflow_handle(arena.batcher_workflow_id).describe()
    [drain] = batcher.raw_description.pending_activities
    return drain.last_failure.HasField("application_failure_info")
