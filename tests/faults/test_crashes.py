"""A worker process ends at every point of a write's way: the next one goes on, nothing is lost, nothing is doubled."""

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import NO_RESUBMISSION, RESUBMITTING
from tests.support.target_databases import Database
from write_batcher.models import ConfirmBy

CALLERS = 12  # more than one batch
AFTER_COMMIT = pytest.param("after_commit", marks=pytest.mark.fast)


@pytest.mark.parametrize("point", ["before_commit", AFTER_COMMIT, "mid_confirm", "before_ack", "after_ack"])
async def test_batcher_that_dies_in_a_batch_is_replaced_and_every_caller_gets_its_receipt(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, point: str
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.run_both("--crash", point)
        await arena.start(CALLERS)
        assert await batcher.ended() < 0
        await arena.run("batcher")
        told = await arena.audit()
        assert told.completed == CALLERS
        assert arena.rows() == CALLERS


async def test_batcher_that_dies_before_it_sets_a_refused_record_aside_does_so_the_next_time(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.run_both("--crash", "before_dead")
        await arena.start(CALLERS)
        await arena.start(1, cents=-1)
        assert await batcher.ended() < 0
        await arena.run("batcher")
        told = await arena.audit()
        assert (told.completed, told.kinds) == (CALLERS, {"WriteRejected": 1})
        assert await arena.dead_letters(1)


@pytest.mark.parametrize("point", ["before_append", "after_append:3"])
async def test_caller_side_that_dies_around_an_append_writes_once(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, point: str
) -> None:
    # An activity that waits for its completion is not missed when its process dies: its timeout submits it anew.
    confirm_timeout = RESUBMITTING if confirm_by is ConfirmBy.COMPLETION else NO_RESUBMISSION
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=confirm_timeout) as arena:
        caller = await arena.run("main", "--crash", point)
        await arena.run("batcher")
        await arena.batcher_ready()
        await arena.start(CALLERS)
        assert await caller.ended() < 0
        await arena.run("main")
        told = await arena.audit()
        assert told.completed == CALLERS
