"""The batcher workflows of a queue: started, drained when the queue shrinks, retired, stopped, started again."""

from datetime import timedelta

import pytest
from redis.asyncio import Redis
from temporalio.client import Client, WorkflowExecutionStatus

from tests.support.batchers import append, batcher_of, start_batching, status_of
from tests.support.fakes import MemorySink
from tests.support.waiting import eventually
from write_batcher.activities.drain import loop as loop_module
from write_batcher.config import Settings
from write_batcher.queue.partitions import Partitions
from write_batcher.workers.batcher_worker import make_batcher_worker, start_batchers
from write_batcher.workflows.batcher import BatcherWorkflow

QUICK = timedelta(milliseconds=100)


@pytest.mark.usefixtures("quick_reads")
async def test_old_partitions_of_a_shrunk_queue_are_drained_and_end(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    monkeypatch.setattr(loop_module, "RETIRE_AFTER", timedelta(milliseconds=500))
    await Partitions(redis, settings.queue).announce(3)
    for partition in range(3):
        await append(client, redis, settings.queue, partition, f"in-{partition}")
    await start_batching(client, redis, settings)
    async with make_batcher_worker(client, settings, redis, sink):
        await eventually(lambda: have_ended(client, settings, 1, 2))
        assert await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING
    assert sorted(row.request_id for row in sink.rows) == ["in-0", "in-1", "in-2"]


@pytest.mark.usefixtures("quick_reads")
async def test_worker_of_a_shrunk_queue_drains_all_old_partitions_at_once(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    await Partitions(redis, settings.queue).announce(40)
    for partition in range(40):
        await append(client, redis, settings.queue, partition, f"in-{partition}")
    partitions = await Partitions(redis, settings.queue).announce(1)
    await start_batchers(client, settings, partitions, restart_stopped=True)
    async with make_batcher_worker(client, settings, redis, sink, partitions=partitions):
        await eventually(lambda: len(sink.rows) == 40)


@pytest.mark.usefixtures("quick_reads")
async def test_batcher_workflow_that_retired_while_its_queue_grew_is_restarted(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    monkeypatch.setattr(loop_module, "RETIRE_AFTER", timedelta(milliseconds=200))
    await Partitions(redis, settings.queue).announce(2)
    await start_batching(client, redis, settings)
    async with make_batcher_worker(client, settings, redis, sink):
        await eventually(lambda: have_ended(client, settings, 1))
    grown = settings.model_copy(update={"partitions": 2})
    await start_batching(client, redis, grown, restart_stopped=False)
    assert await status_of(client, settings, 1) is WorkflowExecutionStatus.RUNNING


async def have_ended(client: Client, settings: Settings, *partitions: int) -> bool:
    statuses = [await status_of(client, settings, partition) for partition in partitions]
    return all(status is WorkflowExecutionStatus.COMPLETED for status in statuses)


@pytest.mark.usefixtures("quick_reads")
@pytest.mark.parametrize("value", [None, "abc", "0"])
async def test_drain_announces_partitions_again_that_redis_lost_or_garbled(
    client: Client,
    redis: Redis,
    settings: Settings,
    sink: MemorySink,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    await start_batching(client, redis, settings)
    key = f"write-batcher:{settings.queue}:partitions"
    async with make_batcher_worker(client, settings, redis, sink):
        await (redis.delete(key) if value is None else redis.set(key, value))
        await eventually(lambda: holds(redis, key, b"1"))


async def holds(redis: Redis, key: str, value: bytes) -> bool:
    return bool(await redis.get(key) == value)


@pytest.mark.usefixtures("quick_reads")
@pytest.mark.parametrize(
    "new_worker",
    [True, False],
)
async def test_stopped_batcher_workflow_restarts_only_with_a_new_worker(
    client: Client,
    redis: Redis,
    settings: Settings,
    sink: MemorySink,
    new_worker: bool,
) -> None:
    await start_batching(client, redis, settings)
    async with make_batcher_worker(client, settings, redis, sink):
        await batcher_of(client, settings).signal(BatcherWorkflow.stop)
        await eventually(lambda: have_ended(client, settings, 0))
    await start_batching(client, redis, settings, restart_stopped=new_worker)
    assert (await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING) is new_worker


async def test_terminated_batcher_workflow_is_restarted(client: Client, redis: Redis, settings: Settings) -> None:
    await start_batching(client, redis, settings)
    await batcher_of(client, settings).terminate()
    await start_batching(client, redis, settings, restart_stopped=False)
    assert await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING
