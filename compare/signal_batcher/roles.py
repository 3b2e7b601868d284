"""The two processes of this design, and the start of many callers: what a benchmark drives."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from write_batcher import ConfigurationError, PrunableSink, Sink, SinkUnavailable, SqlSink, connect_temporal, serve
from write_batcher.compare.caller_steps import GRACE, work, workflow_runner
from write_batcher.compare.signal_batcher.batch_activities import BatchActivities
from write_batcher.compare.signal_batcher.batcher_workflow import TASK_TIMEOUT, SignalBatcherWorkflow
from write_batcher.compare.signal_batcher.caller_workflow import SignalMainInput, SignalMainResult, SignalMainWorkflow
from write_batcher.compare.signal_batcher.pending_writes import (
    LONGEST_WAIT_S,
    MAX_BATCH_ITEMS,
    BatcherLimits,
    BatcherState,
)
from write_batcher.compare.signal_batcher.wire import batcher_id
from write_batcher.config import Settings, as_text, hide_password
from write_batcher.workers.embedded.main_writes import MAIN_WRITES
from write_batcher.workers.embedded.starter import START_CONCURRENCY, bounded

TAKE_OVER_AFTER = timedelta(seconds=5)  # a workflow that a killed worker had in its cache waits for so long for it
ENSURE_EVERY = timedelta(seconds=30)
PRUNE_EVERY = timedelta(hours=1)

logger = logging.getLogger(__name__)


def make_main_worker(client: Client, settings: Settings) -> Worker:
    """A worker of the main task queue; not started."""
    return Worker(
        client,
        task_queue=settings.main_task_queue,
        workflows=[SignalMainWorkflow],
        activities=[work],
        workflow_runner=workflow_runner(),
        graceful_shutdown_timeout=GRACE,
    )


def make_batcher_worker(client: Client, settings: Settings, sink: Sink) -> Worker:
    """A worker of the batcher task queue, which writes to the first of `settings.tables`; not started."""
    activities = BatchActivities(sink, table_of(settings))
    return Worker(
        client,
        task_queue=settings.batcher_task_queue,
        workflows=[SignalBatcherWorkflow],
        activities=[activities.write_batch, activities.settle_batch],
        # The sandbox doubles the time that a signal takes. Up to 10,000 may have come while no worker ran, all in one
        # workflow task, and the SDK fails a task that takes two seconds without a pause: for ever.
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=TAKE_OVER_AFTER,
        graceful_shutdown_timeout=GRACE,
    )


def table_of(settings: Settings) -> str:
    """The table that a batcher worker writes to: requests of this design do not name one."""
    return settings.tables[0].split(":")[0]


def limits_of(settings: Settings) -> BatcherLimits:
    """Raises ConfigurationError for a batch that Temporal could not carry."""
    if settings.max_items > MAX_BATCH_ITEMS:
        raise ConfigurationError(
            f"max_items = {settings.max_items}: a batcher workflow can have 1 to {MAX_BATCH_ITEMS}, because Temporal "
            "carries each of its batches (set by --max-items or WRITE_BATCHER_MAX_ITEMS)"
        )
    if settings.max_wait.total_seconds() > LONGEST_WAIT_S:
        raise ConfigurationError(
            f"max_wait = {as_text(settings.max_wait)}: a batcher workflow can have {LONGEST_WAIT_S}s at most (set by "
            "--max-wait or WRITE_BATCHER_MAX_WAIT)"
        )
    return BatcherLimits(max_items=settings.max_items, max_wait_s=settings.max_wait.total_seconds())


async def start_batchers(client: Client, settings: Settings, limits: BatcherLimits | None = None) -> None:
    """Start the batcher workflows that do not run yet, and tell all of them their limits."""
    await _start_batchers(client, settings, limits or limits_of(settings), are_told=True)


async def start_missing_batchers(client: Client, settings: Settings, limits: BatcherLimits) -> None:
    """Start the batcher workflows that do not run. To those that do it costs no event."""
    await _start_batchers(client, settings, limits, are_told=False)


async def _start_batchers(client: Client, settings: Settings, limits: BatcherLimits, *, are_told: bool) -> None:
    for number in range(settings.partitions):
        await client.start_workflow(
            SignalBatcherWorkflow.run,
            BatcherState(limits=limits),
            id=batcher_id(settings.queue, number),
            task_queue=settings.batcher_task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="configure" if are_told else None,
            start_signal_args=[limits] if are_told else [],
            task_timeout=TASK_TIMEOUT,
        )


async def run_main_worker(settings: Settings) -> None:
    """Work until SIGTERM or Ctrl-C. Raises ConfigurationError when Temporal cannot be reached at start."""
    client = await connect_temporal()
    logger.info(
        "main worker of the signal batcher: task queue %s of namespace %s at %s",
        settings.main_task_queue,
        client.namespace,
        client.service_client.config.target_host,
    )
    await serve(make_main_worker(client, settings))


async def run_batcher_worker(settings: Settings) -> None:
    """Work until SIGTERM or Ctrl-C. Raises ConfigurationError when something is wrong or cannot be reached at start."""
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
        # The callers' own table is made here; an application's tables are made by whoever owns them.
        create = [MAIN_WRITES] if table_of(settings) == MAIN_WRITES.name else []
        sink = await stack.enter_async_context(
            SqlSink.open(settings.database_url, tables=settings.tables[:1], create=create)
        )
        await start_batchers(client, settings, limits)
        pruning = asyncio.create_task(_keep_pruned(sink, settings.ledger_retention), name="prune")
        stack.callback(pruning.cancel)
        ensuring = asyncio.create_task(_keep_batchers(client, settings, limits), name="keep batchers")
        stack.callback(ensuring.cancel)
        await serve(make_batcher_worker(client, settings, sink))


async def start_main_workflows(
    client: Client, settings: Settings, series: str, count: int, *, bad: int = 0, on_started: Callable[[], None]
) -> list[WorkflowHandle[SignalMainWorkflow, SignalMainResult]]:
    """Start `count` callers whose ids begin with `series`; `bad` of them, evenly spread, write a record that the
    database refuses. Wait for them with `workers.starter.wait_for`.
    """
    every = count // bad if bad else 0

    async def start(number: int) -> WorkflowHandle[SignalMainWorkflow, SignalMainResult]:
        handle = await client.start_workflow(
            SignalMainWorkflow.run,
            SignalMainInput(
                item=f"item-{number}",
                cents=-1 if every and number % every == 0 and number < every * bad else 100 + number,
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

    return await bounded(start, range(count), START_CONCURRENCY)


async def _keep_batchers(client: Client, settings: Settings, limits: BatcherLimits) -> None:
    """Start batcher workflows again that have ended: somebody or the server terminated them."""
    while True:
        await asyncio.sleep(ENSURE_EVERY.total_seconds())
        try:
            await start_missing_batchers(client, settings, limits)
        except Exception:  # the rim of this loop: whatever it is, the next check may succeed
            logger.warning("batcher workflows could not be checked", exc_info=True)


async def _keep_pruned(sink: PrunableSink, retention: timedelta) -> None:
    while True:
        try:
            logger.info("the ledger has forgotten %d requests", await sink.prune(retention))
        except SinkUnavailable as error:
            logger.warning("the ledger could not be pruned now: %s", error)
        await asyncio.sleep(PRUNE_EVERY.total_seconds())
