"""The batcher's worker process: hosts the drains, and keeps a batcher workflow running for every partition."""

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
from write_batcher.workers.plugin import with_passthrough
from write_batcher.workers.serving import SHUTDOWN_GRACE, serve
from write_batcher.workflows.batcher import BatcherInput, BatcherWorkflow, batcher_workflow_id

ENSURE_EVERY = timedelta(seconds=30)
CONCURRENT_OTHER_ACTIVITIES = 20  # settling and flushes, beside one drain per partition

logger = logging.getLogger(__name__)


class BatcherWorker(Worker):
    """A worker that stops its drains before it shuts down."""

    def __init__(
        self, client: Client, settings: Settings, drains: DrainActivities, settling: SettleActivities, partitions: int
    ) -> None:
        super().__init__(
            client,
            task_queue=settings.batcher_task_queue,
            workflows=[BatcherWorkflow],
            activities=[drains.drain, drains.flush, settling.settle_write],
            workflow_runner=with_passthrough(None),
            max_concurrent_activities=partitions + CONCURRENT_OTHER_ACTIVITIES,
            graceful_shutdown_timeout=SHUTDOWN_GRACE,
        )
        self._drains = drains

    async def shutdown(self) -> None:
        """Stop the drains, then the worker."""
        self._drains.stop()
        await super().shutdown()


def make_batcher_worker(
    client: Client, settings: Settings, redis: Redis, sink: Sink, *, partitions: int | None = None
) -> Worker:
    """Build a worker of `settings.batcher_task_queue`; it is not started, and closes neither `redis` nor `sink`.

    `partitions` is how many drains it can host at once, `settings.partitions` by default. It must be larger when the
    queue has shrunk and its old partitions are still to be drained.
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


async def start_batchers(client: Client, settings: Settings, partitions: int, *, restart_stopped: bool) -> None:
    """Start the batcher workflow of each of the first `partitions` partitions, unless it is running.

    One that an operator stopped is started only with `restart_stopped`.
    """
    for number in range(partitions):
        partition = PartitionRef(queue=settings.queue, partition=number)
        if restart_stopped:
            await _start_batcher(client, settings, partition, WorkflowIDReusePolicy.ALLOW_DUPLICATE)
            continue
        try:
            await _start_batcher(client, settings, partition, WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY)
        except WorkflowAlreadyStartedError:
            # It has completed: either it was stopped, or it retired just when the queue grew again.
            if await _last_end(client, partition) is DrainEnd.RETIRED:
                await _start_batcher(client, settings, partition, WorkflowIDReusePolicy.ALLOW_DUPLICATE)


async def _last_end(client: Client, partition: PartitionRef) -> DrainEnd | None:
    """How the latest run of the batcher workflow ended; None unless it completed."""
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
    """Run the batcher of `settings.queue` until SIGTERM or Ctrl-C; must be called in the main thread.

    Starts the batcher workflow of every partition, stopped ones included, and shares the drains with all other workers
    of the same task queue. Every 30 seconds it starts workflows again that have been terminated.

    Raises `ConfigurationError` when Temporal, Redis or the database cannot be used at the start.
    """
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
        # Only MainWorkflow's table is created here; an application creates its own tables.
        create = [MAIN_WRITES] if MAIN_WRITES.name in {name.split(":")[0] for name in settings.tables} else []
        sink = await stack.enter_async_context(
            SqlSink.open(settings.database_url, tables=settings.tables, create=create)
        )
        # Before anybody may append: a server that is out of memory refuses to create the group that would drain it.
        for number in range(settings.partitions):
            await WriteQueue(redis, settings.queue, number).ensure_group()
        # A queue that has shrunk has old partitions as well, which are drained until they are empty.
        partitions = await Partitions(redis, settings.queue).announce(settings.partitions)
        await start_batchers(client, settings, partitions, restart_stopped=True)
        ensuring = asyncio.create_task(_ensure_batchers(client, settings), name="ensure batchers")
        stack.callback(ensuring.cancel)
        await serve(make_batcher_worker(client, settings, redis, sink, partitions=partitions))


async def _ensure_batchers(client: Client, settings: Settings) -> None:
    """Start batcher workflows again that were terminated; one that was stopped has completed, and stays stopped."""
    while True:
        await asyncio.sleep(ENSURE_EVERY.total_seconds())
        try:
            await start_batchers(client, settings, settings.partitions, restart_stopped=False)
        except Exception:  # whatever it is, the next check may succeed
            logger.warning("batcher workflows could not be checked", exc_info=True)
