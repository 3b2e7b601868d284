"""What operators do: roll out, terminate the batcher, and repair the stream by hand."""

from datetime import timedelta
from functools import partial
from typing import Any

from tests.databases import Database
from tests.faults.conftest import OpenArena
from tests.support import eventually
from write_batcher.models import ConfirmBy
from write_batcher.queue.stream import CONSUMER, GROUP

CALLERS = 12


async def test_rolling_deploy_under_load_fails_nobody(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by, partitions=2) as arena:
        _, old = await arena.run_both()
        for _ in range(3):
            await arena.start(CALLERS)
            new = await arena.run("batcher")
            await eventually(partial(new.says, "batcher worker"), within_s=60)
            await old.stop()
            old = new
        assert (await arena.audit()).completed == 3 * CALLERS


async def test_batcher_workflow_that_is_terminated_is_started_again(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        await arena.client.get_workflow_handle(arena.batcher_workflow_id).terminate()
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_entries_whose_consumer_was_deleted_by_hand_are_found_and_written(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    """Delivered, not acknowledged, and pending with nobody: no read would ever return them."""
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both("--crash", "after_commit")
        await arena.start(CALLERS)
        await batcher.ended()
        assert await arena.redis.xgroup_delconsumer(arena.queue.stream_key, GROUP, CONSUMER) > 0
        await arena.run("batcher")
        assert (await arena.audit()).completed == CALLERS


async def test_caller_of_an_entry_that_was_deleted_by_hand_is_answered_when_it_asks_again(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target, confirm_timeout=timedelta(seconds=16)) as arena:
        _, batcher = await arena.run_both("--crash", "after_commit")
        await arena.start(CALLERS)
        await batcher.ended()
        entries: Any = await arena.redis.xrange(arena.queue.stream_key, count=1)
        await arena.redis.xdel(arena.queue.stream_key, entries[0][0])
        await arena.run("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS
