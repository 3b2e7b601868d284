"""The batcher workflows of a queue: started, drained when the queue shrinks, retired, stopped, started again."""

from datetime import timedelta

import pytest
from redis.asyncio import Redis
from temporalio.client import Client, WorkflowExecutionStatus

from tests.support.batchers import (
    announce,
    append,
    batcher_of,
    batching,
    heartbeat_timeout_of,
    queue_ref,
    some_terms,
    start_batching,
    status_of,
)
from tests.support.fakes import MemorySink
from tests.support.waiting import eventually
from write_batcher.activities.drain import housekeeping, loop
from write_batcher.config import Settings
from write_batcher.queue import contract_keeper
from write_batcher.queue.contract import ContractStore
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workflows.batcher import BatcherWorkflow

QUICK = timedelta(milliseconds=100)


@pytest.mark.usefixtures("quick_reads")
async def test_old_partitions_of_a_shrunk_queue_are_drained_and_end(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "CONTRACT_EVERY", QUICK)
    monkeypatch.setattr(housekeeping, "RETIRE_AFTER", timedelta(milliseconds=500))
    await announce(redis, queue_ref(client, settings.queue), some_terms(partitions=3))
    for partition in range(3):
        await append(client, redis, settings.queue, partition, f"in-{partition}")
    await start_batching(client, redis, settings)
    async with batching(client, redis, settings, sink):
        await eventually(lambda: have_ended(client, settings, 1, 2))
        assert await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING
    assert sorted(row.request_id for row in sink.rows) == ["in-0", "in-1", "in-2"]


@pytest.mark.usefixtures("quick_reads")
async def test_worker_of_a_shrunk_queue_drains_all_old_partitions_at_once(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    await announce(redis, queue_ref(client, settings.queue), some_terms(partitions=40))
    for partition in range(40):
        await append(client, redis, settings.queue, partition, f"in-{partition}")
    await start_batching(client, redis, settings)
    async with batching(client, redis, settings, sink, partitions=40):
        await eventually(lambda: len(sink.rows) == 40)


@pytest.mark.usefixtures("quick_reads")
async def test_batcher_workflow_that_retired_while_its_queue_grew_is_restarted(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "CONTRACT_EVERY", QUICK)
    monkeypatch.setattr(housekeeping, "RETIRE_AFTER", timedelta(milliseconds=200))
    grown = settings.model_copy(update={"partitions": 2})
    await start_batching(client, redis, grown)
    async with batching(client, redis, settings, sink):
        await eventually(lambda: have_ended(client, settings, 1))
    await start_batching(client, redis, grown, restart_stopped=False)
    assert await status_of(client, settings, 1) is WorkflowExecutionStatus.RUNNING


async def have_ended(client: Client, settings: Settings, *partitions: int) -> bool:
    statuses = [await status_of(client, settings, partition) for partition in partitions]
    return all(status is WorkflowExecutionStatus.COMPLETED for status in statuses)


async def test_contract_that_redis_lost_is_announced_again_without_any_drain(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused queue has no drain, and its operators and callers still need to know it."""
    monkeypatch.setattr(contract_keeper, "ANNOUNCE_EVERY", QUICK)
    store = ContractStore(redis, queue_ref(client, settings.queue))
    async with batching(client, redis, settings, sink):
        await store.forget()
        await eventually(lambda: is_known(store))


async def is_known(store: ContractStore) -> bool:
    return await store.known_partitions() == 1


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
    async with batching(client, redis, settings, sink):
        await batcher_of(client, settings).signal(BatcherWorkflow.stop)
        await eventually(lambda: have_ended(client, settings, 0))
    await start_batching(client, redis, settings, restart_stopped=new_worker)
    assert (await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING) is new_worker


async def test_terminated_batcher_workflow_is_restarted(client: Client, redis: Redis, settings: Settings) -> None:
    await start_batching(client, redis, settings)
    await batcher_of(client, settings).terminate()
    await start_batching(client, redis, settings, restart_stopped=False)
    assert await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING


async def has_heartbeat_timeout(client: Client, settings: Settings) -> bool:
    return await heartbeat_timeout_of(client, settings) == settings.heartbeat_timeout


@pytest.mark.usefixtures("quick_reads")
async def test_drain_has_the_heartbeat_timeout_of_the_worker_also_in_later_runs(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DRAIN_FOR", timedelta(seconds=1))
    settings = settings.model_copy(update={"heartbeat_timeout": timedelta(seconds=3)})
    await start_batching(client, redis, settings)
    first_run = (await batcher_of(client, settings).describe()).run_id
    async with batching(client, redis, settings, sink):
        await eventually(lambda: has_heartbeat_timeout(client, settings))

        async def in_a_later_run() -> bool:
            later = (await batcher_of(client, settings).describe()).run_id != first_run
            return later and await has_heartbeat_timeout(client, settings)

        await eventually(in_a_later_run)


@pytest.mark.usefixtures("quick_reads")
async def test_running_batcher_takes_the_heartbeat_timeout_of_the_worker_that_drains_next(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    await start_batching(client, redis, settings)
    async with batching(client, redis, settings, sink):
        await eventually(lambda: has_heartbeat_timeout(client, settings))
    changed = settings.model_copy(update={"heartbeat_timeout": timedelta(seconds=2.5)})
    await start_batching(client, redis, changed)
    async with batching(client, redis, changed, sink):
        await eventually(lambda: has_heartbeat_timeout(client, changed))
        await append(client, redis, settings.queue, 0, "later")
        await eventually(lambda: len(sink.rows) == 1)


@pytest.mark.usefixtures("quick_reads")
async def test_workers_with_different_heartbeat_timeouts_restart_a_drain_at_most_once(
    temporal_server: TemporalServer, client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    other_client = await Client.connect(temporal_server.address)  # one client cannot have two workers of a task queue
    others = settings.model_copy(update={"heartbeat_timeout": timedelta(seconds=3)})
    await start_batching(client, redis, settings)
    async with batching(client, redis, settings, sink), batching(other_client, redis, others, sink):
        await append(client, redis, settings.queue, 0, "a")
        await eventually(lambda: len(sink.rows) == 1)
        assert (await batcher_of(client, settings).query(BatcherWorkflow.status)).drains <= 1
