"""This library, with confirmation by signal or by completion."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from write_batcher import (
    ConfirmBy,
    PartitionRef,
    Producer,
    Settings,
    Submission,
    WriteBatching,
    WriteRequest,
    batcher_workflow_id,
    connect_redis,
    connect_temporal,
    run_batcher_worker,
    serve,
)
from write_batcher.compare.caller_steps import SHUTDOWN_TIMEOUT, work
from write_batcher.compare.contenders.callers import TABLE, QueueCallerInput, QueueWorkflow
from write_batcher.compare.contenders.design import BATCHER, MAIN, Design, Order, Push, PushRefused

PARTITION = 0  # a comparison has one batcher


class QueueDesign(Design):
    """Redis stream and drain: callers append through an activity, and one activity writes the batches."""

    roles = (MAIN, BATCHER)
    writer = BATCHER
    uses_redis = True
    rests_when_idle = True
    pushes_at_once = 500  # as workflows that submit many at once

    def __init__(self, confirm_by: ConfirmBy, **changes: Any) -> None:
        """`changes` are other fields of `Settings` in which it differs from the other contenders."""
        self._changes = {"confirm_by": confirm_by, **changes}

    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update=self._changes)

    def batcher_id(self, settings: Settings) -> str:
        return batcher_workflow_id(PartitionRef(queue=settings.queue, partition=PARTITION))

    async def run_worker(self, role: str, settings: Settings) -> None:
        if role == BATCHER:
            await run_batcher_worker(settings)
            return
        client = await connect_temporal()
        await serve(
            Worker(
                client,
                task_queue=settings.main_task_queue,
                workflows=[QueueWorkflow],
                activities=[work],
                plugins=[WriteBatching(settings)],
                graceful_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )
        )

    async def start(self, client: Client, settings: Settings, order: Order) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
            QueueWorkflow.run,
            QueueCallerInput(
                item=order.item,
                cents=order.cents,
                write_timeout_s=settings.confirm_timeout.total_seconds(),
                queue=settings.queue,
                batcher_task_queue=settings.batcher_task_queue,
                confirm_by=settings.confirm_by,
                submit_timeout_s=settings.submit_timeout.total_seconds(),
            ),
            id=order.workflow_id,
            task_queue=settings.main_task_queue,
        )

    async def clean_up(self, client: Client, settings: Settings) -> None:
        try:
            await super().clean_up(client, settings)
        finally:
            async with await connect_redis(settings) as redis:
                # The name is random and drawn for each run: no other queue has it in its keys.
                async for key in redis.scan_iter(match=f"write-batcher:*{settings.queue}*"):
                    await redis.delete(key)

    @asynccontextmanager
    async def producer(self, client: Client, settings: Settings) -> AsyncIterator[Push]:
        """Open a producer that appends as the activity `enqueue_write` does, without asking for confirmation."""
        async with await connect_redis(settings) as redis:
            producer = Producer(redis, client.data_converter, namespace=client.namespace)

            async def push(*orders: Order) -> None:
                requests = [
                    WriteRequest(request_id=order.workflow_id, table=TABLE, record=order.record()) for order in orders
                ]
                for appended in await producer.append(Submission(queue=settings.queue, requests=requests)):
                    if appended.refused:
                        raise PushRefused(appended.refused)

            yield push
