"""The batcher workflows of a queue: started as a batcher worker starts them, and looked at."""

from redis.asyncio import Redis
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from write_batcher.config import Settings
from write_batcher.models import DrainEnd, PartitionRef, WriteRequest
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.wire_form import Codec
from write_batcher.workers.batcher_worker import start_batchers
from write_batcher.workflows.batcher import BatcherWorkflow, batcher_workflow_id


async def start_batching(
    client: Client,
    redis: Redis,
    settings: Settings,
    *,
    restart_stopped: bool = True,
) -> None:
    """Do what a batcher worker does at its start, or without `restart_stopped` what it does every 30 seconds."""
    partitions = await Partitions(redis, settings.queue).announce(settings.partitions)
    await start_batchers(client, settings, partitions, restart_stopped=restart_stopped)


async def append(client: Client, redis: Redis, queue: str, partition: int, request_id: str) -> None:
    request = WriteRequest(request_id=request_id, table="main_writes", record={})
    fields = await Codec(client.data_converter).encode(request)
    await WriteQueue(redis, queue, partition).append(fields, max_backlog=100)


def batcher_of(client: Client, settings: Settings, partition: int = 0) -> WorkflowHandle[BatcherWorkflow, DrainEnd]:
    workflow_id = batcher_workflow_id(PartitionRef(queue=settings.queue, partition=partition))
    return client.get_workflow_handle_for(BatcherWorkflow.run, workflow_id)


async def status_of(client: Client, settings: Settings, partition: int) -> WorkflowExecutionStatus | None:
    return (await batcher_of(client, settings, partition).describe()).status
