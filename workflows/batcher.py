"""The host of a partition's drain: runs it for ever, and lets operators pause, resume, flush and stop it."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.workflow import ActivityCancellationType

from write_batcher.models import HEARTBEAT_TIMEOUT, PARKED_FOR, DrainEnd, DrainInput, DrainResult, PartitionRef

DRAIN_TIMEOUT = timedelta(hours=2)  # the drain returns by itself after an hour; this ends an attempt that does not
# A coefficient above 1 would add up over the life of an activity that is retried for ever: minutes of silence after a
# crash.
DRAIN_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0)
STATE_MEMO = "write-batcher"  # holds the state while there is no drain, for whoever describes the workflow
# Then a flush is given up: Redis may be out of memory until a drain runs, and the next drain waits for the handlers.
FLUSH_TIMEOUT = timedelta(seconds=30)


def batcher_workflow_id(partition: PartitionRef) -> str:
    """Return the workflow id of the batcher that hosts this partition's drain; only one workflow can have it."""
    return f"write-batcher/{partition}"


class BatcherState(StrEnum):
    """What a BatcherWorkflow is doing."""

    DRAINING = "draining"
    PARKED = "parked"
    """There is nothing to do."""
    PAUSED = "paused"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherInput:
    """What is carried over continue-as-new."""

    partition: PartitionRef
    sink_id: str = ""
    """The sink that the batcher was started for; empty for a sink without an identity. Redis may forget the contract of
    a queue; this batcher does not: a drain with another sink ends.
    """
    heartbeat_timeout_ms: int = HEARTBEAT_TIMEOUT // timedelta(milliseconds=1)
    """A crashed drain is replaced within this time plus the second of its retry. Longer than any event loop should
    hang. At first that of the worker that started this batcher, then that of the worker that takes a drain.
    """
    parked_for_ms: int = PARKED_FOR // timedelta(milliseconds=1)
    """After how long a parked drain is started for a moment: that of the worker that started this batcher."""
    drains: int = 0
    """How many drains have returned."""
    parked: bool = False
    """Whether the latest drain had nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStatus:
    """The answer to the query `status`."""

    state: BatcherState
    drains: int
    """How many drains have returned."""


@workflow.defn
class BatcherWorkflow:
    """The batcher of one partition. Its history does not grow with the number of writes: retries of the drain leave no
    events, and after each drain that returns it continues as new.
    """

    @workflow.init
    def __init__(self, batcher: BatcherInput) -> None:
        self._partition = batcher.partition
        self._sink_id = batcher.sink_id
        self._heartbeat_timeout_ms = batcher.heartbeat_timeout_ms
        self._reconfigured = False
        self._paused = False
        self._stopping = False
        self._drains = batcher.drains
        self._parked = batcher.parked
        self._parked_for = timedelta(milliseconds=batcher.parked_for_ms)
        self._drain: workflow.ActivityHandle[DrainResult] | None = None
        self._drain_is_to_end = False
        self._flushing = False
        self._flush_again = False

    @workflow.run
    async def run(self, batcher: BatcherInput) -> DrainEnd:
        """Drain until stopped, or until the partition has retired; returns which of the two."""
        while self._state() is not BatcherState.STOPPING:
            parks_at_once = await self._parked_for_long()
            await self._until_not(BatcherState.PAUSED)
            if self._state() is BatcherState.DRAINING:
                end = await self._drain_once(parks_at_once=parks_at_once)
                if end is DrainEnd.RETIRED:
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    return DrainEnd.RETIRED
                self._parked = end is DrainEnd.PARKED
            if workflow.cancellation_reason() is not None:
                # The cancelled drain has returned normally, so nothing has raised the cancellation yet.
                raise asyncio.CancelledError
            # Before the state is looked at again: a pause or a stop may come while a flush is being finished.
            await workflow.wait_condition(workflow.all_handlers_finished)
            if self._state() in (BatcherState.DRAINING, BatcherState.PARKED) and not self._reconfigured:
                workflow.continue_as_new(
                    replace(
                        batcher,
                        drains=self._drains,
                        parked=self._parked,
                        heartbeat_timeout_ms=self._heartbeat_timeout_ms,
                    ),
                    memo={STATE_MEMO: BatcherState.PARKED.value} if self._parked else None,
                )
        await workflow.wait_condition(workflow.all_handlers_finished)
        return DrainEnd.STOPPED

    async def _parked_for_long(self) -> bool:
        """While parked, wait until there is something to do. Returns True when nobody has said so for a long time."""
        try:
            await self._until_not(BatcherState.PARKED, timeout=self._parked_for)
        except TimeoutError:
            self._parked = False
            return True
        return False

    async def _until_not(self, state: BatcherState, timeout: timedelta | None = None) -> None:
        """Wait as long as there is no drain for this reason, and tell whoever describes the workflow."""
        if self._state() is not state:
            return
        if workflow.memo_value(STATE_MEMO, default=None) != state.value:
            workflow.upsert_memo({STATE_MEMO: state.value})
        await workflow.wait_condition(lambda: self._state() is not state, timeout=timeout)

    async def _drain_once(self, *, parks_at_once: bool) -> DrainEnd:
        self._drain_is_to_end = False
        # Not twice in a row: workers with different settings would send the drain to and fro.
        may_return_for_another = not self._reconfigured
        self._reconfigured = False
        self._drain = workflow.start_activity(
            "drain",
            DrainInput(
                partition=self._partition,
                sink_id=self._sink_id,
                heartbeat_timeout_ms=self._heartbeat_timeout_ms if may_return_for_another else None,
                parks_at_once=parks_at_once,
            ),
            result_type=DrainResult,
            start_to_close_timeout=DRAIN_TIMEOUT,
            heartbeat_timeout=timedelta(milliseconds=self._heartbeat_timeout_ms),
            retry_policy=DRAIN_RETRY,
            # A second drain must not start while the first one is finishing what is in flight.
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        try:
            result = await self._drain
        except ActivityError as error:
            # Between two attempts there is no drain that could return, and a drain that fails or dies after it was told
            # to end is not retried. What it had in flight is still pending.
            if not (self._drain_is_to_end or is_cancelled_exception(error)):
                raise
            return DrainEnd.STOPPED
        finally:
            self._drain = None
            self._drains += 1
        if result.heartbeat_timeout_ms is not None:
            self._heartbeat_timeout_ms = result.heartbeat_timeout_ms
            self._reconfigured = True
        return result.end

    @workflow.signal
    def pause(self) -> None:
        """Stop draining: the drain finishes what is in flight and returns. Requests wait in the stream."""
        self._paused = True
        self._end_drain()

    @workflow.signal
    def resume(self) -> None:
        """Drain again after a pause."""
        self._paused = self._parked = False

    @workflow.signal
    def wake(self) -> None:
        """Drain again after the drain was parked: a batcher worker has seen an entry in the stream."""
        self._parked = False

    @workflow.signal
    def stop(self) -> None:
        """End this workflow once the drain has returned. A batcher worker that starts later starts it again."""
        self._stopping = True
        self._end_drain()

    @workflow.signal
    async def flush(self) -> None:
        """Have everything that has been appended so far written now. Given up when Redis does not take the flush."""
        self._parked = False
        if self._flushing:
            self._flush_again = True  # the flush under way may have entered the stream before the latest requests
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
        """Return what this workflow is doing."""
        return BatcherStatus(state=self._state(), drains=self._drains)

    def _state(self) -> BatcherState:
        if self._stopping:
            return BatcherState.STOPPING
        if self._paused:
            return BatcherState.PAUSED
        return BatcherState.PARKED if self._parked else BatcherState.DRAINING

    def _end_drain(self) -> None:
        if self._drain is not None:
            self._drain_is_to_end = True
            self._drain.cancel()
