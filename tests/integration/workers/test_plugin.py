"""The plugin for an application's own worker."""

import asyncio

import pytest
from redis.asyncio import Redis
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

# The sandbox loads this module anew for `Shop`, which needs none of this.
with workflow.unsafe.imports_passed_through():
    from tests.support.batchers import batching, start_batching
    from tests.support.fakes import MemorySink
    from write_batcher.config import Settings
    from write_batcher.models import Outcome
    from write_batcher.workers.plugin import WriteBatching
    from write_batcher.workflows.batched_writes import BatchedWrites
    from write_batcher.workflows.write_options import WriteOptions

RESULT_TIMEOUT_S = 60


@workflow.defn
class Shop:
    """An application's own workflow."""

    @workflow.init
    def __init__(self, queue: str) -> None:
        self._writes = BatchedWrites(WriteOptions(queue=queue))

    @workflow.run
    async def run(self, queue: str) -> Outcome:
        receipt = await self._writes.submit("sales", {"shop": workflow.info().workflow_id})
        return receipt.outcome


@pytest.mark.usefixtures("quick_reads")
async def test_plugin_lets_an_existing_worker_submit_writes(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, name: str
) -> None:
    await start_batching(client, redis, settings)
    shop = Worker(client, task_queue=name, workflows=[Shop], plugins=[WriteBatching(settings)])
    async with batching(client, redis, settings, sink), shop:
        async with asyncio.timeout(RESULT_TIMEOUT_S):
            outcome = await client.execute_workflow(Shop.run, name, id=name, task_queue=name)
    assert outcome is Outcome.WRITTEN
    assert [(row.table, row.record) for row in sink.rows] == [("sales", {"shop": name})]
