"""Hosts the drain of one partition: runs it for ever, and lets operators pause, resume, flush and stop it."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.workflow import ActivityCancellationType

from write_batcher.models import DrainEnd, DrainResult, PartitionRef

# A crashed drain is replaced within this time plus the retry's second. Longer than any event loop should ever hang.
HEARTBEAT_TIMEOUT = timedelta(seconds=10)
# The drain returns after an hour by itself; this only ends an attempt that does not.
DRAIN_TIMEOUT = timedelta(hours=2)
# A coefficient above 1 would add up over the life of a retried-for-ever activity: minutes of silence after a crash.
DRAIN_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0)
# Then a flush is given up: Redis may be out of memory until a drain runs, and the next drain waits for the handlers.
FLUSH_TIMEOUT = timedelta(seconds=30)
FLUSHES_ARE_MERGED = "flushes-are-merged"  # patch: a batcher of an older version may have two of them under way


def batcher_workflow_id(partition: PartitionRef) -> str:
    """The one workflow id that may host this partition's drain."""
    return f"write-batcher/{partition}"


class BatcherState(StrEnum):
    """What a BatcherWorkflow is doing."""

    DRAINING = "draining"
    PAUSED = "paused"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherInput:
    """State carried over continue-as-new: `drains` counts the drains that have returned."""

    partition: PartitionRef
    drains: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStatus:
    """The answer to the query `status`: `drains` counts the drains that have returned."""

    state: BatcherState
    drains: int


@workflow.defn
class BatcherWorkflow:
    """Its history does not grow with the number of writes: the activity is retried without events, and each drain
    that returns starts a new run.
    """

    @workflow.init
    def __init__(self, batcher: BatcherInput) -> None:
        self._partition = batcher.partition
        self._paused = False
        self._stopping = False
        self._drains = batcher.drains
        self._drain: workflow.ActivityHandle[DrainResult] | None = None
        self._drain_told_to_end = False
        self._flushing = False
        self._flush_again = False

    @workflow.run
    async def run(self, batcher: BatcherInput) -> DrainEnd:
        """Drain until stopped, or until the partition has been retired; says which."""
        while self._state() is not BatcherState.STOPPING:
            await workflow.wait_condition(lambda: self._state() is not BatcherState.PAUSED)
            if self._state() is BatcherState.DRAINING and await self._drain_once() is DrainEnd.RETIRED:
                await workflow.wait_condition(workflow.all_handlers_finished)
                return DrainEnd.RETIRED
            if workflow.cancellation_reason() is not None:
                # The drain that was cancelled has returned normally, so nothing has raised the cancellation yet.
                raise asyncio.CancelledError
            # First: a pause or a stop may come while a flush is being finished.
            await workflow.wait_condition(workflow.all_handlers_finished)
            if self._state() is BatcherState.DRAINING:
                workflow.continue_as_new(replace(batcher, drains=self._drains))
        await workflow.wait_condition(workflow.all_handlers_finished)
        return DrainEnd.STOPPED

    async def _drain_once(self) -> DrainEnd:
        self._drain_told_to_end = False
        self._drain = workflow.start_activity(
            "drain",
            self._partition,
            result_type=DrainResult,
            start_to_close_timeout=DRAIN_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=DRAIN_RETRY,
            # A second drain must not start while the first still finishes what is in flight.
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        try:
            result = await self._drain
        except ActivityError as error:
            # Told to end between two attempts, there is no drain that could return; and one that fails or dies after
            # it has been told is not tried again. What it had in flight is still pending.
            if not (self._drain_told_to_end or is_cancelled_exception(error)):
                raise
            return DrainEnd.STOPPED
        finally:
            self._drain = None
            self._drains += 1
        return result.end

    @workflow.signal
    def pause(self) -> None:
        """Stop draining: the drain finishes what is in flight and returns. Requests wait in the stream."""
        self._paused = True
        self._end_drain()

    @workflow.signal
    def resume(self) -> None:
        """Drain again after a pause."""
        self._paused = False

    @workflow.signal
    def stop(self) -> None:
        """End this workflow once the drain has returned. A batcher worker that starts later starts it again."""
        self._stopping = True
        self._end_drain()

    @workflow.signal
    async def flush(self) -> None:
        """Have the open batch written now, as far as it has been appended, unless Redis takes no request for it."""
        if self._flushing and workflow.patched(FLUSHES_ARE_MERGED):
            self._flush_again = True  # the one under way may lie before what this one is to write
            return
        self._flushing = True
        await self._flush_once()
        # A drain that has returned has written its open batch, and the next one must not wait for flush after flush.
        while self._flush_again and self._drain is not None:
            self._flush_again = False
            await self._flush_once()
        self._flushing = self._flush_again = False

    async def _flush_once(self) -> None:
        try:
            await workflow.execute_activity(
                "flush", self._partition, schedule_to_close_timeout=FLUSH_TIMEOUT, retry_policy=DRAIN_RETRY
            )
        except ActivityError as error:
            workflow.logger.warning("flush of %s is given up: %s", self._partition, error.cause or error)

    @workflow.query
    def status(self) -> BatcherStatus:
        """What this workflow is doing."""
        return BatcherStatus(state=self._state(), drains=self._drains)

    def _state(self) -> BatcherState:
        if self._stopping:
            return BatcherState.STOPPING
        return BatcherState.PAUSED if self._paused else BatcherState.DRAINING

    def _end_drain(self) -> None:
        if self._drain is not None:
            self._drain_told_to_end = True
            self._drain.cancel()
