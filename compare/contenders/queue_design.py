"""This library, in the two modes that tell a caller what became of its write."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio.client import Client, WorkflowHandle

from write_batcher.compare.contenders.design import BATCHER, MAIN, Design, Order, Push, PushRefused
from write_batcher.config import Settings
from write_batcher.errors import QueueFull
from write_batcher.models import ConfirmBy, PartitionRef, WriteRequest
from write_batcher.queue.codec import Codec
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.redis_client import connect, translated_errors
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.batcher_worker import run_batcher_worker
from write_batcher.workers.embedded.starter import start_main
from write_batcher.workers.main_worker import run_main_worker
from write_batcher.workflows.batcher import batcher_workflow_id
from write_batcher.workflows.main import TABLE, MainResult

PARTITION = 0  # a comparison has one batcher


class Queue(Design):
    """Redis stream and drain."""

    roles = (MAIN, BATCHER)
    writer = BATCHER
    uses_redis = True

    def __init__(self, confirm_by: ConfirmBy) -> None:
        self._confirm_by = confirm_by

    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"confirm_by": self._confirm_by})

    def batcher_id(self, settings: Settings) -> str:
        return batcher_workflow_id(PartitionRef(queue=settings.queue, partition=PARTITION))

    async def work(self, role: str, settings: Settings) -> None:
        await {MAIN: run_main_worker, BATCHER: run_batcher_worker}[role](settings)

    async def start(self, client: Client, settings: Settings, order: Order) -> WorkflowHandle[Any, Any]:
        return await start_main(client, settings, order.workflow_id, item=order.item, cents=order.cents)

    def latency_ms(self, result: MainResult) -> int:
        return result.latency_ms

    async def clean_up(self, client: Client, settings: Settings) -> None:
        try:
            await super().clean_up(client, settings)
        finally:
            async with connect(settings.redis_url) as redis:
                queue = WriteQueue(redis, settings.queue, PARTITION)
                with translated_errors():
                    await redis.delete(Partitions(redis, settings.queue).key, *queue.keys)

    @asynccontextmanager
    async def producer(self, client: Client, settings: Settings) -> AsyncIterator[Push]:
        """Appends as the activity `enqueue_write` does, with nobody to confirm to."""
        codec = Codec(client.data_converter)
        async with connect(settings.redis_url) as redis:
            queue = WriteQueue(redis, settings.queue, PARTITION)

            async def push(order: Order) -> None:
                request = WriteRequest(request_id=order.workflow_id, table=TABLE, record=order.record())
                try:
                    await queue.append(await codec.encode(request), max_backlog=settings.max_backlog)
                except QueueFull as error:
                    raise PushRefused(str(error)) from error

            yield push
