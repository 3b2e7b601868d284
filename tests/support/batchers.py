"""The batcher of a queue: its contract, its workflows and its worker, as a batcher worker process has them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from redis.asyncio import Redis
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.worker import Worker

from write_batcher.config import Settings
from write_batcher.models import DrainEnd, PartitionRef, QueueRef, WriteRequest
from write_batcher.queue.contract import Contract, ContractStore, Terms
from write_batcher.queue.contract_keeper import ContractKeeper
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.wire_form import Codec
from write_batcher.sinks.protocol import Sink
from write_batcher.workers.batcher_worker import make_batcher_worker, start_batchers, terms_of
from write_batcher.workflows.batcher import BatcherWorkflow, batcher_workflow_id

WORKER = "the test's worker"


def queue_ref(client: Client, name: str) -> QueueRef:
    return QueueRef(namespace=client.namespace, name=name)


def some_terms(
    *, partitions: int = 1, max_items: int = 100, max_wait_ms: int = 200, sink_id: str = "memory", **tables: str
) -> Terms:
    """Terms of a `MemorySink`, which takes any table, unless another id and tables are given."""
    return Terms(
        sink_id=sink_id,
        partitions=partitions,
        tables=tables,
        max_wait_ms=max_wait_ms,
        max_items=max_items,
        max_request_bytes=10_000,
        max_backlog=1_000,
    )


async def announce(redis: Redis, queue: QueueRef, terms: Terms) -> Contract:
    """Announce the terms as the queue's only worker does."""
    return await ContractStore(redis, queue).announce(WORKER, terms)


async def start_batching(client: Client, redis: Redis, settings: Settings, *, restart_stopped: bool = True) -> Contract:
    """Do what a batcher worker does at its start, or without `restart_stopped` what it does every 30 seconds."""
    queue = queue_ref(client, settings.queue)
    for number in range(settings.partitions):
        await WriteQueue(redis, queue, number).ensure_group()
    contract = await announce(redis, queue, some_terms(partitions=settings.partitions))
    partitions = await ContractStore(redis, queue).known_partitions()
    await start_batchers(client, settings, partitions, sink_id=contract.sink_id, restart_stopped=restart_stopped)
    return contract


@asynccontextmanager
async def batching(
    client: Client, redis: Redis, settings: Settings, sink: Sink, *, partitions: int | None = None
) -> AsyncIterator[Worker]:
    """Run a batcher worker that keeps the contract of its queue; the workflows are started by `start_batching`."""
    store = ContractStore(redis, queue_ref(client, settings.queue))
    keeper = ContractKeeper(store, WORKER, terms_of(settings, sink))
    await keeper.start()
    keeping = asyncio.create_task(keeper.run())
    try:
        worker = make_batcher_worker(client, settings, redis, sink, lambda: keeper.contract, partitions=partitions)
        async with worker:
            yield worker
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


async def append(client: Client, redis: Redis, queue: str, partition: int, request_id: str) -> None:
    request = WriteRequest(request_id=request_id, table="main_writes", record={})
    fields = await Codec(client.data_converter).encode(request)
    await WriteQueue(redis, queue_ref(client, queue), partition).append(fields, max_backlog=100)


def batcher_of(client: Client, settings: Settings, partition: int = 0) -> WorkflowHandle[BatcherWorkflow, DrainEnd]:
    workflow_id = batcher_workflow_id(PartitionRef(queue=settings.queue, partition=partition))
    return client.get_workflow_handle_for(BatcherWorkflow.run, workflow_id)


async def heartbeat_timeout_of(client: Client, settings: Settings, partition: int = 0) -> timedelta | None:
    """Of the drain that a worker has taken and drains with; None when there is none."""
    handle = batcher_of(client, settings, partition)
    pending = (await handle.describe()).raw_description.pending_activities
    ids = [
        one.activity_id for one in pending if one.activity_type.name == "drain" and one.HasField("last_started_time")
    ]
    async for event in handle.fetch_history_events():
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_id in ids:
            return scheduled.heartbeat_timeout.ToTimedelta()
    return None


async def status_of(client: Client, settings: Settings, partition: int) -> WorkflowExecutionStatus | None:
    return (await batcher_of(client, settings, partition).describe()).status
