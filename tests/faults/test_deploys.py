"""What operators do: roll out, terminate the batcher, and repair the stream by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import RESUBMITTING, Arena, Worker
from tests.faults.test_database_away import drains
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.queue.stream import CONSUMER, GROUP

CALLERS = 12
LONG_HEARTBEAT = ("--heartbeat-timeout-s", "30")
HANDED_OVER_WITHIN_MS = 15_000  # half of what a successor that waits for the heartbeat timeout takes


async def test_rolling_deploy_under_load_fails_nobody_and_hands_over_at_once(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by, partitions=2) as arena:
        _, old = await arena.run_both(*LONG_HEARTBEAT)
        await eventually(partial(_polls, arena, old), within_s=60)  # a caller that waits for it to begin is no measure
        async with _load(arena):
            for _ in range(3):
                new = await arena.run("batcher", *LONG_HEARTBEAT)
                await eventually(partial(_polls, arena, new), within_s=60)
                await eventually(arena.backlog, within_s=60)
                await old.stop()
                assert drains(old) == old.log.read_text().count(" stopped: ")  # each returned, none was broken off
                old = new
        told = await arena.audit()
        assert told.completed == arena.started
        assert told.latest_ms < HANDED_OVER_WITHIN_MS


async def _polls(arena: Arena, worker: Worker) -> bool:
    """Whether Temporal has seen it ask for work of both kinds: what it logs comes seconds earlier."""
    for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
        answer = await arena.client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=arena.client.namespace,
                task_queue=TaskQueue(name=arena.settings.batcher_task_queue),
                task_queue_type=kind,
            )
        )
        if not any(poller.identity.startswith(f"{worker.process.pid}@") for poller in answer.pollers):
            return False
    return True


@asynccontextmanager
async def _load(arena: Arena) -> AsyncIterator[None]:
    """Callers are started all the time."""
    enough = asyncio.Event()

    async def start_until_enough() -> None:
        while not enough.is_set():
            await arena.start(1)
            await asyncio.sleep(0.2)

    starting = asyncio.create_task(start_until_enough())
    try:
        yield
    finally:
        enough.set()
        await starting


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
    async with open_arena(sqlite_target, confirm_timeout=RESUBMITTING) as arena:
        _, batcher = await arena.run_both("--crash", "after_commit")
        await arena.start(CALLERS)
        await batcher.ended()
        entries: Any = await arena.redis.xrange(arena.queue.stream_key, count=1)
        await arena.redis.xdel(arena.queue.stream_key, entries[0][0])
        await arena.run("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS
