"""The process of the batcher: hosts the drains, and makes sure that every partition has its batcher workflow."""

import asyncio
import logging
from contextlib import AsyncExitStack
from datetime import timedelta

from redis.asyncio import Redis
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.worker import Worker

from write_batcher.activities.drain.activity import DrainActivities
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.settle import SettleActivities
from write_batcher.config import Settings, hide_password
from write_batcher.models import DrainEnd, PartitionRef
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.protocol import Sink
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.connections import connect_redis, connect_temporal
from write_batcher.workers.embedded.main_writes import MAIN_WRITES
from write_batcher.workers.plugin import passing_through
from write_batcher.workers.serving import GRACE, serve
from write_batcher.workflows.batcher import BatcherInput, BatcherWorkflow, batcher_workflow_id

ENSURE_EVERY = timedelta(seconds=30)
OTHER_ACTIVITIES = 20  # at once, beside one drain for each partition: settling, flushes

logger = logging.getLogger(__name__)


class BatcherWorker(Worker):
    """A worker that tells its drains before it shuts down."""

    def __init__(
        self, client: Client, settings: Settings, drains: DrainActivities, settling: SettleActivities, partitions: int
    ) -> None:
        super().__init__(
            client,
            task_queue=settings.batcher_task_queue,
            workflows=[BatcherWorkflow],
            activities=[drains.drain, drains.flush, settling.settle_write],
            workflow_runner=passing_through(None),
            max_concurrent_activities=partitions + OTHER_ACTIVITIES,
            graceful_shutdown_timeout=GRACE,
        )
        self._drains = drains

    async def shutdown(self) -> None:
        """Stop the drains, then the worker."""
        self._drains.stop()
        await super().shutdown()


def make_batcher_worker(
    client: Client, settings: Settings, redis: Redis, sink: Sink, *, partitions: int | None = None
) -> Worker:
    """A worker of the batcher task queue; not started. `partitions`: how many need draining, when the queue has shrunk
    to fewer than that.
    """
    drains = DrainActivities(
        queue=settings.queue,
        redis_url=settings.redis_url,
        redis=redis,
        sink=sink,
        limits=BatchLimits(
            max_items=settings.max_items,
            max_bytes=settings.max_bytes,
            max_wait=settings.max_wait,
            max_age=settings.ledger_retention,
        ),
        partitions=settings.partitions,
    )
    settling = SettleActivities(settings.queue, sink)
    return BatcherWorker(client, settings, drains, settling, partitions or settings.partitions)


async def start_batchers(client: Client, settings: Settings, partitions: int, *, stopped_too: bool) -> None:
    """Start the batcher workflow of every partition that has none running; `stopped_too`: also where somebody has
    stopped it on purpose.
    """
    for number in range(partitions):
        partition = PartitionRef(queue=settings.queue, partition=number)
        if stopped_too:
            await _start_batcher(client, settings, partition, WorkflowIDReusePolicy.ALLOW_DUPLICATE)
            continue
        try:
            await _start_batcher(client, settings, partition, WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY)
        except WorkflowAlreadyStartedError:
            # Completed: it was stopped, or retired just when the queue grew again.
            if await _last_end(client, partition) is DrainEnd.RETIRED:
                await _start_batcher(client, settings, partition, WorkflowIDReusePolicy.ALLOW_DUPLICATE)


async def _last_end(client: Client, partition: PartitionRef) -> DrainEnd | None:
    """How the latest run of this batcher workflow ended; None while it runs."""
    latest = await client.get_workflow_handle(batcher_workflow_id(partition)).describe()
    if latest.status is not WorkflowExecutionStatus.COMPLETED:
        return None
    run = client.get_workflow_handle_for(BatcherWorkflow.run, latest.id, run_id=latest.run_id)
    return await run.result(follow_runs=False)


async def _start_batcher(
    client: Client, settings: Settings, partition: PartitionRef, reuse: WorkflowIDReusePolicy
) -> None:
    await client.start_workflow(
        BatcherWorkflow.run,
        BatcherInput(partition=partition),
        id=batcher_workflow_id(partition),
        task_queue=settings.batcher_task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=reuse,
    )


async def run_batcher_worker(settings: Settings) -> None:
    """Work until SIGTERM or Ctrl-C. Raises ConfigurationError when something cannot be reached at start."""
    async with AsyncExitStack() as stack:
        client = await connect_temporal()
        redis = await stack.enter_async_context(await connect_redis(settings))
        logger.info(
            "batcher worker: queue %s with %d partitions, task queue %s of namespace %s at %s, Redis %s, database %s",
            settings.queue,
            settings.partitions,
            settings.batcher_task_queue,
            client.namespace,
            client.service_client.config.target_host,
            hide_password(settings.redis_url),
            hide_password(settings.database_url),
        )
        # MainWorkflow's own table is made here; an application's tables are made by whoever owns them.
        create = [MAIN_WRITES] if MAIN_WRITES.name in {name.split(":")[0] for name in settings.tables} else []
        sink = await stack.enter_async_context(
            SqlSink.open(settings.database_url, tables=settings.tables, create=create)
        )
        # Before anybody may append: a server that is full later refuses to create what it takes to drain it.
        for number in range(settings.partitions):
            await WriteQueue(redis, settings.queue, number).ensure_group()
        # The old partitions of a queue that shrinks are drained until they are empty.
        partitions = await Partitions(redis, settings.queue).announce(settings.partitions)
        await start_batchers(client, settings, partitions, stopped_too=True)
        ensuring = asyncio.create_task(_keep_batchers(client, settings), name="keep batchers")
        stack.callback(ensuring.cancel)
        await serve(make_batcher_worker(client, settings, redis, sink, partitions=partitions))


async def _keep_batchers(client: Client, settings: Settings) -> None:
    """Start batcher workflows again that somebody terminated; one that was stopped has completed and stays so."""
    while True:
        await asyncio.sleep(ENSURE_EVERY.total_seconds())
        try:
            await start_batchers(client, settings, settings.partitions, stopped_too=False)
        except Exception:  # the rim of this loop: whatever it is, the next check may succeed
            logger.warning("batcher workflows could not be checked", exc_info=True)
