"""Operators deploy, terminate the batcher workflow, and delete entries or consumers by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import RESUBMITTING, Arena, Worker
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.queue.stream import CONSUMER, GROUP

CALLERS = 12
START_EVERY_S = 0.2
LONG_HEARTBEAT = timedelta(seconds=30)
HANDED_OVER_WITHIN_MS = 15_000  # half of the heartbeat timeout, which a successor of a killed drain waits for


async def test_rolling_deploy_under_load_fails_no_caller_and_hands_over_at_once(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by, partitions=2, heartbeat_timeout=LONG_HEARTBEAT) as arena:
        _, old = await arena.start_workers()
        # Otherwise the first callers would wait for its start, and their latency would not be that of a hand-over.
        await eventually(partial(_polls, arena, old), within_s=60)
        async with _load(arena):
            for _ in range(3):
                new = await arena.start_worker("batcher")
                await eventually(partial(_polls, arena, new), within_s=60)
                await eventually(arena.backlog, within_s=60)
                await old.stop()
                assert old.drains_started() == old.log.read_text().count(" stopped: ")  # none was cut short
                old = new
        outcomes = await arena.audit()
        assert outcomes.completed == arena.started
        assert outcomes.max_latency_ms < HANDED_OVER_WITHIN_MS


async def _polls(arena: Arena, worker: Worker) -> bool:
    """Whether Temporal has seen the worker poll for both kinds of task; it logs its start seconds before that."""
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
    """Keep starting callers."""
    enough = asyncio.Event()

    async def start_until_enough() -> None:
        while not enough.is_set():
            await arena.start_callers(1)
            await asyncio.sleep(START_EVERY_S)

    starting = asyncio.create_task(start_until_enough())
    try:
        yield
    finally:
        enough.set()
        await starting


async def test_terminated_batcher_workflow_is_started_again(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        await arena.client.get_workflow_handle(arena.batcher_workflow_id).terminate()
        await arena.start_callers(CALLERS)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_entries_of_a_deleted_consumer_are_found_and_written(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    """They are delivered, not acknowledged, and pending for no consumer, so that no ordinary read returns them."""
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.start_workers("--crash", "after_commit")
        await arena.start_callers(CALLERS)
        await batcher.exited()
        assert await arena.redis.xgroup_delconsumer(arena.queue.stream_key, GROUP, CONSUMER) > 0
        await arena.start_worker("batcher")
        assert (await arena.audit()).completed == CALLERS


async def test_caller_of_a_deleted_entry_is_answered_when_it_submits_again(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target, confirm_timeout=RESUBMITTING) as arena:
        _, batcher = await arena.start_workers("--crash", "after_commit")
        await arena.start_callers(CALLERS)
        await batcher.exited()
        entries: Any = await arena.redis.xrange(arena.queue.stream_key, count=1)
        await arena.redis.xdel(arena.queue.stream_key, entries[0][0])
        await arena.start_worker("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS
