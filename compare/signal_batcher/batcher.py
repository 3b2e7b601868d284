"""The batcher as a workflow: it collects requests from signals, has them written in batches, and tells the callers."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.converter import value_to_type
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from write_batcher.compare.signal_batcher.activities import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    MAX_ERROR_CHARS,
    Answer,
    BatchActivities,
    GivenUpBatch,
    SignalledBatch,
)
from write_batcher.compare.signal_batcher.line import (
    MAX_CARRIED_BYTES,
    MAX_REQUEST_BYTES,
    BatcherLimits,
    BatcherState,
    Line,
    QueuedWrite,
    Remembered,
    is_run_full,
)
from write_batcher.compare.signal_batcher.wire import (
    SUBMIT_SIGNAL,
    BatcherStats,
    Confirmation,
    SignalledWrite,
    Status,
)
from write_batcher.models import CONFIRMATION_SIGNAL

WRITE_TIMEOUT = timedelta(seconds=60)  # of one attempt; SqlSink gives up after 45 s by itself
HEARTBEAT_TIMEOUT = timedelta(seconds=6)
SETTLE_ATTEMPTS = 3
CONFIRM_ATTEMPTS = 4
CONFIRM_RETRY_S = 0.5  # after the first failure, doubled after each further one

CALLER_IS_GONE = "ExternalWorkflowExecutionNotFound"  # type of the failure that Temporal gives such a signal


@workflow.defn
class SignalBatcherWorkflow:
    """Never ends by itself. A run continues as new when Temporal suggests it, or before the server refuses signals.

    Signal handlers are total: anyone may send anything, and a handler that raises would wedge this workflow for ever.
    """

    @workflow.init
    def __init__(self, state: BatcherState) -> None:
        self._state = state
        self._limits = state.limits
        self._line = Line(state.waiting)
        self._remembered = Remembered(state.remembered)
        self._open = {one.identity for one in state.waiting}
        self._in_hand = 0
        self._signals = 0
        self._batches = 0
        self._confirming: set[asyncio.Task[None]] = set()
        self._confirm_slots = asyncio.Semaphore(state.limits.confirmations_at_once)

    @workflow.run
    async def run(self, _state: BatcherState) -> None:
        """Write batch after batch."""
        while True:
            await self._until_there_is_work()
            if self._must_give_way():
                await workflow.wait_condition(lambda: not self._confirming and workflow.all_handlers_finished())
                # Requests that came meanwhile are in line; too many for the next run to begin with are written first.
                if self._must_give_way():
                    workflow.continue_as_new(self._next_state())
            else:
                await self._write_a_batch()

    @workflow.signal(name=SUBMIT_SIGNAL)
    def add_write_request(self, request: Any = None, *_rest: Any) -> None:
        """One more request, from anyone. What is none is ignored; so is the same signal, come again."""
        self._signals += 1
        try:
            parsed = SignalledWrite.parse(request)
        except ValueError as error:
            workflow.logger.warning("ignored what is no write request: %s", error)
            return
        queued = QueuedWrite(request=parsed, received_s=workflow.time(), size_bytes=parsed.size_bytes)
        if queued.identity in self._open or self._remembered.has_answered(parsed):
            workflow.logger.info("ignored a signal that came again: request %s", parsed.request_id)
        elif queued.size_bytes > MAX_REQUEST_BYTES:
            reason = f"the request has {queued.size_bytes} bytes, the limit is {MAX_REQUEST_BYTES}: store large data "
            reason += "elsewhere and write its address"
            self._tell(parsed, Answer(batch_id="", error=reason), count=0, batch_size=1)
        else:
            self._open.add(queued.identity)
            self._line.append(queued)

    @workflow.signal
    def configure(self, limits: Any = None, *_rest: Any) -> None:
        """The limits of the batcher worker that has just started: this workflow may be older than its settings. How
        many confirmations may be sent at once changes with the next run.
        """
        try:
            self._limits = value_to_type(BatcherLimits, limits)
        except Exception as error:  # noqa: BLE001 - a handler must not raise, and a converter raises what it likes
            workflow.logger.warning("ignored what are no limits: %s", error)

    @workflow.query
    def get_stats(self) -> BatcherStats:
        """Figures for the monitor."""
        return BatcherStats(
            pending_writes=len(self._line) + self._in_hand,
            processed_batches=self._state.processed_batches + self._batches,
            session_signals_received=self._signals,
            processed_request_ids_count=len(self._remembered),
            continue_as_new_cycle=self._state.cycle,
            batch_size_limit=self._limits.max_items,
            is_continue_suggested=workflow.info().is_continue_as_new_suggested(),
        )

    @workflow.query
    def is_request_processed(self, request_id: Any = None, *_rest: Any) -> bool:
        """Whether this id was written, as far as this workflow remembers; the write ledger remembers longer."""
        return isinstance(request_id, str) and request_id in self._remembered

    async def _until_there_is_work(self) -> None:
        """Until a batch must be written, or a new run must take over. One timer for each batch that is not full."""
        await workflow.wait_condition(lambda: len(self._line) > 0 or self._must_give_way())
        closes_in = self._closes_in()
        if closes_in:
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._closes_in() == 0 or self._must_give_way(),
                    timeout=closes_in,
                    timeout_summary="age of the batch",
                )

    def _closes_in(self) -> float | None:
        return self._line.closes_in(self._limits, workflow.time())

    async def _write_a_batch(self) -> None:
        reason, queued = self._line.take(self._limits)
        self._in_hand = len(queued)
        info = workflow.info()
        batch = SignalledBatch(
            batch_id=f"{info.workflow_id}/{info.run_id[:8]}-{self._batches + 1}",
            flush_reason=reason,
            requests=tuple(one.request for one in queued),
        )
        answers = await self._answers(batch)
        count = sum(answer.error is None for answer in answers)
        for one, answer in zip(queued, answers, strict=True):
            self._open.discard(one.identity)
            if answer.error is None:
                self._remembered.add(one.request)
            self._tell(one.request, answer, count=count, batch_size=len(queued))
        self._in_hand = 0
        self._batches += 1

    async def _answers(self, batch: SignalledBatch) -> list[Answer]:
        """One for each request: written, refused, or given up after so many attempts."""
        try:
            return await workflow.execute_activity_method(
                BatchActivities.write_batch,
                batch,
                start_to_close_timeout=WRITE_TIMEOUT,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(seconds=FIRST_RETRY_S),
                    backoff_coefficient=2.0,
                    maximum_interval=timedelta(seconds=LONGEST_RETRY_S),
                    maximum_attempts=self._limits.write_attempts,
                ),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            reason = f"given up after {self._limits.write_attempts} attempts: {error.cause or error}"[:MAX_ERROR_CHARS]
        try:
            return await workflow.execute_activity_method(
                BatchActivities.settle_batch,
                GivenUpBatch(batch=batch, reason=reason),
                start_to_close_timeout=WRITE_TIMEOUT,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=RetryPolicy(maximum_attempts=SETTLE_ATTEMPTS),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            unknown = Answer(batch_id=batch.batch_id, error=reason, is_certain=False)
            return [unknown] * len(batch.requests)

    def _tell(self, request: SignalledWrite, answer: Answer, *, count: int, batch_size: int) -> None:
        """Confirm in the background: a caller that cannot be reached holds up nobody else."""
        if not request.requesting_workflow:
            return
        confirmation = Confirmation(
            status=Status.SUCCESS if answer.error is None else Status.FAILED,
            count=count,
            batch_id=answer.batch_id,
            batch_size=batch_size,
            request_id=request.request_id,
            error=answer.error,
            is_certain=answer.is_certain,
        )
        confirming = asyncio.create_task(self._confirm(request.requesting_workflow, confirmation))
        self._confirming.add(confirming)
        confirming.add_done_callback(self._confirming.discard)

    async def _confirm(self, caller: str, confirmation: Confirmation) -> None:
        handle = workflow.get_external_workflow_handle(caller)
        for attempt in range(1, CONFIRM_ATTEMPTS + 1):
            try:
                async with self._confirm_slots:
                    await handle.signal(CONFIRMATION_SIGNAL, confirmation)
                return
            except ApplicationError as error:
                if error.type == CALLER_IS_GONE or attempt == CONFIRM_ATTEMPTS:
                    workflow.logger.warning(
                        "request %s is %s, but %s could not be told: %s",
                        confirmation.request_id,
                        confirmation.status.value,
                        caller,
                        error,
                    )
                    return
            await workflow.sleep(CONFIRM_RETRY_S * 2.0 ** (attempt - 1) * workflow.random().uniform(0.5, 1.0))

    def _must_give_way(self) -> bool:
        """Whether a new run must take over, and can: what is in line must fit into its input."""
        return self._line.size_bytes <= MAX_CARRIED_BYTES and is_run_full(
            suggested=workflow.info().is_continue_as_new_suggested(),
            signals=self._signals,
            limits=self._limits,
            idle_runs=self._idle_runs(),
        )

    def _idle_runs(self) -> int:
        return 0 if self._signals or self._batches else self._state.idle_runs + 1

    def _next_state(self) -> BatcherState:
        return BatcherState(
            limits=self._limits,
            waiting=self._line.waiting(),
            remembered=self._remembered.newest(),
            processed_batches=self._state.processed_batches + self._batches,
            cycle=self._state.cycle + 1,
            idle_runs=self._idle_runs(),
        )
