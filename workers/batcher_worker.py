"""The batcher's worker process: hosts the drains, and keeps a batcher workflow running for every partition."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
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
from write_batcher.errors import WrongSink
from write_batcher.models import DrainEnd, PartitionRef, QueueRef
from write_batcher.queue.contract import Contract, ContractStore, Terms
from write_batcher.queue.contract_keeper import ContractKeeper
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.protocol import Sink, identity_of
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.connections import connect_redis, connect_temporal
from write_batcher.workers.embedded.main_writes import MAIN_WRITES
from write_batcher.workers.operating.host import Hosts, HostState
from write_batcher.workers.plugin import with_passthrough
from write_batcher.workers.serving import SHUTDOWN_GRACE, closed_in_time, serve
from write_batcher.workers.waking import Waker
from write_batcher.workflows.batcher import BatcherInput, BatcherWorkflow, batcher_workflow_id

ENSURE_EVERY = timedelta(seconds=30)
MILLISECOND = timedelta(milliseconds=1)
CONCURRENT_OTHER_ACTIVITIES = 20  # settling and flushes, beside one drain per partition

logger = logging.getLogger(__name__)


class BatcherWorker(Worker):
    """A worker that wakes parked drains as long as it runs, and stops its drains before it shuts down."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        drains: DrainActivities,
        settling: SettleActivities,
        waker: Waker,
        partitions: int,
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
        self._waker = waker

    async def run(self) -> None:
        """Run the worker until it is shut down."""
        waking = asyncio.create_task(self._waker.run(), name="wake parked drains")
        try:
            await super().run()
        finally:
            waking.cancel()

    async def shutdown(self) -> None:
        """Stop the drains, then the worker."""
        self._drains.stop()
        await super().shutdown()


def terms_of(settings: Settings, sink: Sink) -> Terms:
    """Return what a batcher worker with these settings and this sink announces to the callers of its queue."""
    sink_id, tables = identity_of(sink)
    return Terms(
        sink_id=sink_id,
        partitions=settings.partitions,
        tables=tables,
        max_wait_ms=round(settings.max_wait / MILLISECOND),
        max_items=settings.max_items,
        max_request_bytes=settings.max_request_bytes,
        max_backlog=settings.max_backlog,
        pace=settings.pace,
        max_rate=settings.max_rate,
        target_latency_ms=None if settings.target_latency is None else settings.target_latency // MILLISECOND,
    )


def make_batcher_worker(
    client: Client,
    settings: Settings,
    redis: Redis,
    sink: Sink,
    contract: Callable[[], Contract],
    *,
    partitions: int | None = None,
) -> Worker:
    """Build a worker of `settings.batcher_task_queue`; it is not started, and closes neither `redis` nor `sink`.

    `contract` returns the latest known contract of the queue. `partitions` is how many drains the worker can host at
    once, `settings.partitions` by default. It must be larger when the queue has shrunk and its old partitions are still
    to be drained.
    """
    queue = QueueRef(namespace=client.namespace, name=settings.queue)
    drains = DrainActivities(
        queue=queue,
        redis_url=settings.redis_url,
        redis=redis,
        sink=sink,
        limits=BatchLimits(
            max_items=settings.max_items,
            max_bytes=settings.max_bytes,
            max_wait=settings.max_wait,
            max_request_bytes=settings.max_request_bytes,
            max_dead_letters=settings.max_dead_letters,
            dead_letter_retention=settings.dead_letter_retention,
            park_after=settings.park_after,
        ),
        contract=contract,
        signer=Signer(settings.signing_key.get_secret_value(), queue) if settings.signing_key else None,
        heartbeat_timeout=settings.heartbeat_timeout,
    )
    settling = SettleActivities(queue, sink, contract)
    waker = Waker(Hosts(client), redis, queue)
    return BatcherWorker(client, settings, drains, settling, waker, partitions or settings.partitions)


async def start_batchers(
    client: Client, settings: Settings, partitions: int, *, sink_id: str, restart_stopped: bool
) -> None:
    """Start the batcher workflow of each of the first `partitions` partitions, unless it is running. Its drains will
    write to the sink `sink_id` only.

    One that an operator stopped is started only with `restart_stopped`.
    """
    for number in range(partitions):
        batcher = BatcherInput(
            partition=PartitionRef(queue=settings.queue, partition=number),
            sink_id=sink_id,
            heartbeat_timeout_ms=settings.heartbeat_timeout // MILLISECOND,
            parked_for_ms=settings.parked_for // MILLISECOND,
        )
        if restart_stopped:
            await _start_batcher(client, settings, batcher, WorkflowIDReusePolicy.ALLOW_DUPLICATE)
            continue
        try:
            await _start_batcher(client, settings, batcher, WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY)
        except WorkflowAlreadyStartedError:
            # It has completed: either it was stopped, or it retired just when the queue grew again.
            if await _last_end(client, batcher.partition) is DrainEnd.RETIRED:
                await _start_batcher(client, settings, batcher, WorkflowIDReusePolicy.ALLOW_DUPLICATE)


async def _last_end(client: Client, partition: PartitionRef) -> DrainEnd | None:
    """How the latest run of the batcher workflow ended; None unless it completed."""
    latest = await client.get_workflow_handle(batcher_workflow_id(partition)).describe()
    if latest.status is not WorkflowExecutionStatus.COMPLETED:
        return None
    run = client.get_workflow_handle_for(BatcherWorkflow.run, latest.id, run_id=latest.run_id)
    return await run.result(follow_runs=False)


async def _start_batcher(
    client: Client, settings: Settings, batcher: BatcherInput, reuse: WorkflowIDReusePolicy
) -> None:
    await client.start_workflow(
        BatcherWorkflow.run,
        batcher,
        id=batcher_workflow_id(batcher.partition),
        task_queue=settings.batcher_task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=reuse,
    )


async def run_batcher_worker(settings: Settings) -> None:
    """Run the batcher of `settings.queue` until SIGTERM or Ctrl-C; must be called in the main thread.

    Announces the contract of the queue as long as it runs, starts the batcher workflow of every partition, stopped ones
    included, and shares the drains with all other workers of the same task queue. Every 30 seconds it starts workflows
    again that have been terminated.

    Raises `ConfigurationError` when Temporal, Redis or the database cannot be used at the start. Its kind `WrongSink`
    is also raised later, when the queue has been moved to another database in the meantime.
    """
    async with AsyncExitStack() as stack:
        client = await connect_temporal()
        queue = QueueRef(namespace=client.namespace, name=settings.queue)
        redis = await stack.enter_async_context(closed_in_time("Redis", await connect_redis(settings)))
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
        sink = await stack.enter_async_context(closed_in_time("database", _open_sink(settings)))
        terms = terms_of(settings, sink)
        await _check_running_batcher(client, settings, terms.sink_id)
        # Before anybody may append: a server that is out of memory refuses to create the group that would drain it.
        for number in range(settings.partitions):
            await WriteQueue(redis, queue, number).ensure_group()
        store = ContractStore(redis, queue)
        keeper = ContractKeeper(store, _worker_name(), terms)
        await keeper.start()
        stack.push_async_callback(keeper.leave)
        # A queue that has shrunk has old partitions as well, which are drained until they are empty.
        partitions = await store.known_partitions()
        await start_batchers(client, settings, partitions, sink_id=terms.sink_id, restart_stopped=True)
        ensuring = asyncio.create_task(_ensure_batchers(client, settings, keeper, store), name="ensure batchers")
        stack.callback(ensuring.cancel)
        worker = make_batcher_worker(client, settings, redis, sink, lambda: keeper.contract, partitions=partitions)
        await serve(worker, beside=keeper.run())


def _open_sink(settings: Settings) -> AbstractAsyncContextManager[SqlSink]:
    # Only MainWorkflow's table is created here; an application creates its own tables.
    create = [MAIN_WRITES] if MAIN_WRITES.name in {name.split(":")[0] for name in settings.tables} else []
    return SqlSink.open(
        settings.database_url,
        tables=settings.tables,
        create=create,
        deduplication_window=settings.deduplication_window,
    )


async def _check_running_batcher(client: Client, settings: Settings, sink_id: str) -> None:
    """Raise `WrongSink` when the batcher workflow of the queue remembers another sink: Redis, which has the contract,
    may have lost it.
    """
    host = await Hosts(client).look(PartitionRef(queue=settings.queue, partition=0))
    if host.state is not HostState.NOT_RUNNING and host.sink_id and host.sink_id != sink_id:
        raise WrongSink(
            f"The batcher workflow of queue {settings.queue!r} writes to the sink {host.sink_id!r}, and this worker's "
            f"is {sink_id!r}: give it the database of the queue (--database-url), or another queue (--queue). To move "
            "the queue to this database, stop its batchers and run "
            f"`write-batcher queue move --queue {settings.queue}`."
        )


def _worker_name() -> str:
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


async def _wake_left_over(client: Client, settings: Settings, partitions: int, known: int) -> None:
    """Wake parked drains of partitions that the queue has no longer, so that they retire."""
    hosts = Hosts(client)
    for number in range(partitions, known):
        partition = PartitionRef(queue=settings.queue, partition=number)
        if (await hosts.look(partition)).state is HostState.PARKED:
            await hosts.wake(partition)


async def _ensure_batchers(client: Client, settings: Settings, keeper: ContractKeeper, store: ContractStore) -> None:
    """Start batcher workflows again that were terminated; one that was stopped has completed, and stays stopped."""
    while True:
        await asyncio.sleep(ENSURE_EVERY.total_seconds())
        try:
            contract = keeper.contract
            await start_batchers(client, settings, contract.partitions, sink_id=contract.sink_id, restart_stopped=False)
            await _wake_left_over(client, settings, contract.partitions, await store.known_partitions())
        except Exception:  # whatever it is, the next check may succeed
            logger.warning("batcher workflows could not be checked", exc_info=True)
