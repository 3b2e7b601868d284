"""A worker process dies at every point of a write's life: the next one takes over, nothing is lost or doubled."""

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import NO_RESUBMISSION, RESUBMITTING
from tests.support.target_databases import Database
from write_batcher.models import ConfirmBy

CALLERS = 12  # more than one batch
AFTER_COMMIT = pytest.param("after_commit", marks=pytest.mark.fast)


@pytest.mark.parametrize("point", ["before_commit", AFTER_COMMIT, "mid_confirm", "before_ack", "after_ack"])
async def test_batcher_killed_in_mid_batch_is_replaced_and_confirms_every_caller(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, point: str
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.start_workers("--crash", point)
        await arena.start_callers(CALLERS)
        assert await batcher.exited() < 0
        await arena.start_worker("batcher")
        outcomes = await arena.audit()
        assert outcomes.completed == CALLERS
        assert arena.rows() == CALLERS


async def test_batcher_killed_before_a_dead_letter_stores_it_on_redelivery(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.start_workers("--crash", "before_dead")
        await arena.start_callers(CALLERS)
        await arena.start_callers(1, cents=-1)
        assert await batcher.exited() < 0
        await arena.start_worker("batcher")
        outcomes = await arena.audit()
        assert (outcomes.completed, outcomes.failure_types) == (CALLERS, {"WriteRejected": 1})
        assert await arena.has_dead_letters(1)


@pytest.mark.parametrize("point", ["before_append", "after_append:3"])
async def test_callers_worker_killed_around_an_append_writes_once(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, point: str
) -> None:
    # Temporal does not notice that the process of an activity awaiting completion died: the caller has to submit again.
    confirm_timeout = RESUBMITTING if confirm_by is ConfirmBy.COMPLETION else NO_RESUBMISSION
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=confirm_timeout) as arena:
        caller = await arena.start_worker("main", "--crash", point)
        await arena.start_worker("batcher")
        await arena.until_batcher_ready()
        await arena.start_callers(CALLERS)
        assert await caller.exited() < 0
        await arena.start_worker("main")
        outcomes = await arena.audit()
        assert outcomes.completed == CALLERS
