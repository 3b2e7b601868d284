"""The two worker processes of this design, the start of its batchers, and the start of many callers."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from write_batcher import (
    ConfigurationError,
    PrunableSink,
    QueueRef,
    Sink,
    SinkUnavailable,
    SqlSink,
    connect_temporal,
    serve,
)
from write_batcher.compare.caller_steps import SHUTDOWN_TIMEOUT, work, workflow_runner
from write_batcher.compare.signal_batcher.batch_activities import BatchActivities
from write_batcher.compare.signal_batcher.batcher_limits import MAX_BATCH_ITEMS, MAX_WAIT_S, BatcherLimits
from write_batcher.compare.signal_batcher.batcher_state import BatcherState
from write_batcher.compare.signal_batcher.batcher_workflow import TASK_TIMEOUT, SignalBatcherWorkflow
from write_batcher.compare.signal_batcher.caller_workflow import SignalMainInput, SignalMainResult, SignalMainWorkflow
from write_batcher.compare.signal_batcher.wire import batcher_id
from write_batcher.config import Settings, as_text, hide_password
from write_batcher.workers.embedded.main_writes import MAIN_WRITES
from write_batcher.workers.embedded.starter import START_CONCURRENCY, gather_bounded

TAKE_OVER_AFTER = timedelta(seconds=5)  # a workflow in the cache of a worker that was killed waits for it this long
CHECK_EVERY = timedelta(seconds=30)
PRUNE_EVERY = timedelta(hours=1)

logger = logging.getLogger(__name__)


def make_main_worker(client: Client, settings: Settings) -> Worker:
    """Return a worker for callers on the main task queue; not started."""
    return Worker(
        client,
        task_queue=settings.main_task_queue,
        workflows=[SignalMainWorkflow],
        activities=[work],
        workflow_runner=workflow_runner(),
        graceful_shutdown_timeout=SHUTDOWN_TIMEOUT,
    )


def make_batcher_worker(client: Client, settings: Settings, sink: Sink) -> Worker:
    """Return a worker for batchers on the batcher task queue; not started.

    It writes to the first of `settings.tables`.
    """
    queue = QueueRef(namespace=client.namespace, name=settings.queue)
    activities = BatchActivities(sink, queue, table_of(settings))
    return Worker(
        client,
        task_queue=settings.batcher_task_queue,
        workflows=[SignalBatcherWorkflow],
        activities=[activities.write_batch, activities.settle_batch],
        # The sandbox doubles the time that a signal takes. While no worker runs, up to 10,000 may come for one workflow
        # task, and the SDK fails a task that takes two seconds without a pause: it would fail for ever.
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=TAKE_OVER_AFTER,
        graceful_shutdown_timeout=SHUTDOWN_TIMEOUT,
    )


def table_of(settings: Settings) -> str:
    """Return the table that a batcher worker writes to: requests of this design do not name one."""
    return settings.tables[0].split(":")[0]


def limits_of(settings: Settings) -> BatcherLimits:
    """Return the limits of batchers with these settings.

    Raises `ConfigurationError` when Temporal could not carry such a batch, or could not wait as long.
    """
    if settings.max_items > MAX_BATCH_ITEMS:
        raise ConfigurationError(
            f"Setting max_items = {settings.max_items}: a batcher workflow can have 1 to {MAX_BATCH_ITEMS}, because "
            "Temporal carries each of its batches (set by --max-items or WRITE_BATCHER_MAX_ITEMS)."
        )
    if settings.max_wait.total_seconds() > MAX_WAIT_S:
        raise ConfigurationError(
            f"Setting max_wait = {as_text(settings.max_wait)}: a batcher workflow can have {MAX_WAIT_S}s at most (set "
            "by --max-wait or WRITE_BATCHER_MAX_WAIT)."
        )
    return BatcherLimits(max_items=settings.max_items, max_wait_s=settings.max_wait.total_seconds())


async def start_batchers(client: Client, settings: Settings, limits: BatcherLimits | None = None) -> None:
    """Start the batcher workflows that do not run, and signal their limits to all of them."""
    await _start_batchers(client, settings, limits or limits_of(settings), send_limits=True)


async def start_missing_batchers(client: Client, settings: Settings, limits: BatcherLimits) -> None:
    """Start the batcher workflows that do not run. It adds no event to those that do."""
    await _start_batchers(client, settings, limits, send_limits=False)


async def _start_batchers(client: Client, settings: Settings, limits: BatcherLimits, *, send_limits: bool) -> None:
    for number in range(settings.partitions):
        await client.start_workflow(
            SignalBatcherWorkflow.run,
            BatcherState(limits=limits),
            id=batcher_id(settings.queue, number),
            task_queue=settings.batcher_task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="configure" if send_limits else None,
            start_signal_args=[limits] if send_limits else [],
            task_timeout=TASK_TIMEOUT,
        )


async def run_main_worker(settings: Settings) -> None:
    """Run a worker for callers until SIGTERM or Ctrl-C.

    Raises `ConfigurationError` when Temporal cannot be reached at start.
    """
    client = await connect_temporal()
    logger.info(
        "main worker of the signal batcher: task queue %s of namespace %s at %s",
        settings.main_task_queue,
        client.namespace,
        client.service_client.config.target_host,
    )
    await serve(make_main_worker(client, settings))


async def run_batcher_worker(settings: Settings) -> None:
    """Run a worker for batchers until SIGTERM or Ctrl-C, and keep their workflows running.

    Raises `ConfigurationError` when a setting is wrong, or when Temporal or the database cannot be reached at start.
    """
    limits = limits_of(settings)
    async with AsyncExitStack() as stack:
        client = await connect_temporal()
        logger.info(
            "batcher worker of the signal batcher: %d batchers from %s on, task queue %s of namespace %s at %s, "
            "table %s of database %s",
            settings.partitions,
            batcher_id(settings.queue),
            settings.batcher_task_queue,
            client.namespace,
            client.service_client.config.target_host,
            table_of(settings),
            hide_password(settings.database_url),
        )
        # The table of the example callers is created here; an application creates its own tables.
        create = [MAIN_WRITES] if table_of(settings) == MAIN_WRITES.name else []
        sink = await stack.enter_async_context(
            SqlSink.open(
                settings.database_url,
                tables=settings.tables[:1],
                create=create,
                deduplication_window=settings.deduplication_window,
            )
        )
        await start_batchers(client, settings, limits)
        pruning = asyncio.create_task(_keep_pruned(sink), name="prune")
        stack.callback(pruning.cancel)
        checking = asyncio.create_task(_keep_batchers(client, settings, limits), name="keep batchers")
        stack.callback(checking.cancel)
        await serve(make_batcher_worker(client, settings, sink))


async def start_main_workflows(
    client: Client, settings: Settings, series: str, count: int, *, on_started: Callable[[], None]
) -> list[WorkflowHandle[SignalMainWorkflow, SignalMainResult]]:
    """Start `count` callers whose workflow ids begin with `series`.

    Wait for them with `workers.embedded.starter.wait_for`.
    """

    async def start(number: int) -> WorkflowHandle[SignalMainWorkflow, SignalMainResult]:
        handle = await client.start_workflow(
            SignalMainWorkflow.run,
            SignalMainInput(
                item=f"item-{number}",
                cents=100 + number,
                queue=settings.queue,
                batchers=settings.partitions,
                submit_timeout_s=settings.submit_timeout.total_seconds(),
                confirm_timeout_s=settings.confirm_timeout.total_seconds(),
            ),
            id=f"{series}{number}",
            task_queue=settings.main_task_queue,
        )
        on_started()
        return handle

    return await gather_bounded(start, range(count), START_CONCURRENCY)


async def _keep_batchers(client: Client, settings: Settings, limits: BatcherLimits) -> None:
    """Start batcher workflows again that were terminated."""
    while True:
        await asyncio.sleep(CHECK_EVERY.total_seconds())
        try:
            await start_missing_batchers(client, settings, limits)
        except Exception:  # the edge of this loop: whatever failed, the next check may succeed
            logger.warning("batcher workflows could not be checked", exc_info=True)


async def _keep_pruned(sink: PrunableSink) -> None:
    while True:
        try:
            logger.info("%d requests were pruned from the ledger", await sink.prune())
        except SinkUnavailable as error:
            logger.warning("the ledger could not be pruned: %s", error)
        await asyncio.sleep(PRUNE_EVERY.total_seconds())
