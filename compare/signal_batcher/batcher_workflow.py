"""The batcher as a workflow: it collects requests from signals, has them written in batches and confirms them."""

import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.converter import value_to_type
from temporalio.exceptions import ActivityError, is_cancelled_exception

from write_batcher.compare.signal_batcher.batch_activities import (
    MAX_ERROR_CHARS,
    Answer,
    BatchActivities,
    GivenUpBatch,
    SignalledBatch,
)
from write_batcher.compare.signal_batcher.batcher_limits import (
    MAX_CARRIED_BYTES,
    MAX_HISTORY_EVENTS,
    MAX_REQUEST_BYTES,
    BatcherLimits,
    is_run_full,
    retry_delay_s,
)
from write_batcher.compare.signal_batcher.batcher_state import (
    BatcherState,
    BatchInFlight,
    QueuedWrite,
    UnsentConfirmation,
)
from write_batcher.compare.signal_batcher.confirmation_sender import ConfirmationSender
from write_batcher.compare.signal_batcher.pending_writes import PendingWrites, WrittenRequests
from write_batcher.compare.signal_batcher.wire import (
    SUBMIT_SIGNAL,
    BatcherStats,
    Confirmation,
    SignalledWrite,
    Status,
)

# For a workflow task. A worker that takes over replays the whole run in its first one: six seconds for 25,000 events.
# The price: when a worker is killed while it has a task, its batcher waits as long for it.
TASK_TIMEOUT = timedelta(seconds=30)

WRITE_TIMEOUT = timedelta(seconds=60)  # for one attempt; SqlSink itself gives up after 45 s
HEARTBEAT_TIMEOUT = timedelta(seconds=6)
SETTLE_ATTEMPTS = 3


@workflow.defn
class SignalBatcherWorkflow:
    """Collects requests, writes batches and confirms to callers; it never ends by itself.

    A run continues as new when Temporal suggests it, or before the server refuses further signals.

    Signal handlers accept any argument: anyone may send anything, and a handler that raises would wedge the workflow
    for ever.
    """

    @workflow.init
    def __init__(self, state: BatcherState) -> None:
        self._state = state
        self._limits = state.limits
        self._batch = state.tried
        self._in_flight = state.waiting[: state.tried.items] if state.tried else []
        self._in_flight_bytes = _size_bytes(self._in_flight)
        self._pending = PendingWrites(state.waiting[len(self._in_flight) :])
        self._written = WrittenRequests(state.remembered)
        self._unanswered = {queued.identity for queued in state.waiting}
        self._confirmations = ConfirmationSender(state.untold, at_once=state.limits.confirmations_at_once)
        self._signals = 0
        self._batches = 0

    @workflow.run
    async def run(self, _state: BatcherState) -> None:
        """Write batch after batch, until the run continues as new."""
        self._confirmations.resume()
        while True:
            await self._wait_for_work()
            # A batch whose retry is due is tried first, or runs could hand it over to each other without trying it.
            if self._must_continue_as_new() and not self._is_retry_due():
                await self._prepare_to_continue_as_new()
                # Requests may have come in the meantime. If they are too many to hand over, they are written first.
                if self._must_continue_as_new() and self._held_bytes() <= MAX_CARRIED_BYTES:
                    workflow.continue_as_new(self._next_state(), task_timeout=TASK_TIMEOUT)
                self._confirmations.resume()
            else:
                await self._try_batch()

    @workflow.signal(name=SUBMIT_SIGNAL)
    def add_write_request(self, request: Any = None, *_rest: Any) -> None:
        """Take a request from anyone. A malformed request and a repeated signal are ignored."""
        self._signals += 1
        try:
            parsed = SignalledWrite.parse(request)
        except ValueError as error:
            workflow.logger.warning("ignored a malformed write request: %s", error)
            return
        queued = QueuedWrite(request=parsed, received_s=workflow.time(), size_bytes=parsed.size_bytes)
        if queued.identity in self._unanswered or self._written.has_answered(parsed):
            workflow.logger.info("ignored a repeated signal: request %s", parsed.request_id)
        elif queued.size_bytes > MAX_REQUEST_BYTES:
            reason = f"the request has {queued.size_bytes} bytes, the limit is {MAX_REQUEST_BYTES}: store large data "
            reason += "elsewhere and write its address"
            self._confirm(parsed, Answer(batch_id="", error=reason), count=0, batch_size=1)
        elif self._may_not_drain() and self._held_bytes() + queued.size_bytes > MAX_CARRIED_BYTES:
            self._refuse(parsed)
        else:
            self._unanswered.add(queued.identity)
            self._pending.append(queued)

    @workflow.signal
    def configure(self, limits: Any = None, *_rest: Any) -> None:
        """Take the limits of a batcher worker that has just started: this workflow may be older than its settings.

        `confirmations_at_once` takes effect with the next run.
        """
        try:
            self._limits = value_to_type(BatcherLimits, limits)
        except Exception as error:  # noqa: BLE001 - a handler must not raise, and a converter may raise anything
            workflow.logger.warning("ignored malformed limits: %s", error)

    @workflow.query
    def get_stats(self) -> BatcherStats:
        """Return figures for the monitor."""
        return BatcherStats(
            pending_writes=len(self._pending) + len(self._in_flight),
            processed_batches=self._state.processed_batches + self._batches,
            session_signals_received=self._signals,
            processed_request_ids_count=len(self._written),
            continue_as_new_cycle=self._state.cycle,
            batch_size_limit=self._limits.max_items,
            is_continue_suggested=workflow.info().is_continue_as_new_suggested(),
        )

    @workflow.query
    def is_request_processed(self, request_id: Any = None, *_rest: Any) -> bool:
        """Whether this id was written, as far as this workflow remembers. The write ledger remembers longer."""
        return isinstance(request_id, str) and request_id in self._written

    async def _wait_for_work(self) -> None:
        """Return when a batch must be written or the run must end. It costs a timer per batch that is not full, and per
        retry.
        """
        if self._batch:
            wait_s = self._batch.retry_at_s - workflow.time()
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(
                        self._must_continue_as_new, timeout=wait_s, timeout_summary="next attempt to write the batch"
                    )
            return
        await workflow.wait_condition(lambda: len(self._pending) > 0 or self._must_continue_as_new())
        while (closes_in_s := self._closes_in_s()) and not self._must_continue_as_new():
            limits = self._limits
            try:
                await workflow.wait_condition(
                    lambda limits=limits: (  # type: ignore[misc]
                        self._closes_in_s() == 0 or self._limits != limits or self._must_continue_as_new()
                    ),
                    timeout=closes_in_s,
                    timeout_summary="age of the batch",
                )
            except TimeoutError:
                return

    def _closes_in_s(self) -> float | None:
        return self._pending.closes_in_s(self._limits, workflow.time())

    def _take_batch(self) -> BatchInFlight:
        reason, self._in_flight = self._pending.take(self._limits)
        self._in_flight_bytes = _size_bytes(self._in_flight)
        info = workflow.info()
        return BatchInFlight(
            batch_id=f"{info.workflow_id}/{info.run_id[:8]}-{self._batches + 1}",
            flush_reason=reason,
            items=len(self._in_flight),
            attempts=0,
            retry_at_s=0.0,
        )

    async def _try_batch(self) -> None:
        """Try once to write the batch in flight, or else the next one. If it fails, the batch stays in flight."""
        batch = self._batch = self._batch or self._take_batch()
        in_flight = self._in_flight
        answers = await self._write(batch, tuple(queued.request for queued in in_flight))
        if answers is None:
            return
        count = sum(answer.error is None for answer in answers)
        for queued, answer in zip(in_flight, answers, strict=True):
            self._unanswered.discard(queued.identity)
            if answer.error is None:
                self._written.add(queued.request)
            self._confirm(queued.request, answer, count=count, batch_size=len(in_flight))
        self._in_flight = []
        self._in_flight_bytes = 0
        self._batch = None
        self._batches += 1

    async def _write(self, taken: BatchInFlight, requests: tuple[SignalledWrite, ...]) -> list[Answer] | None:
        """Return an answer to each request: written, rejected, or given up after the last attempt.

        None when the batch must be tried again.
        """
        attempts = taken.attempts + 1
        batch = SignalledBatch(
            batch_id=taken.batch_id, flush_reason=taken.flush_reason, requests=requests, attempt=attempts
        )
        try:
            return await workflow.execute_activity_method(
                BatchActivities.write_batch,
                batch,
                start_to_close_timeout=WRITE_TIMEOUT,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                # Retried by this workflow: retries by the server would hold up continue-as-new for minutes.
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if attempts < self._limits.write_attempts:
                retry_at_s = workflow.time() + retry_delay_s(attempts, workflow.random().random())
                self._batch = replace(taken, attempts=attempts, retry_at_s=retry_at_s)
                return None
            reason = f"given up after {attempts} attempts: {error.cause or error}"[:MAX_ERROR_CHARS]
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

    def _refuse(self, request: SignalledWrite) -> None:
        reason = f"the batcher is full: {self._held_bytes()} bytes of requests wait for the database, and this one is "
        reason += "not written; check the database, and try again later"
        if not request.requesting_workflow:
            workflow.logger.error("request %s, for which nobody waits, is lost: %s", request.request_id, reason)
        # A caller that asks again may have been written by an earlier attempt.
        is_certain = request.request_id not in self._written
        self._confirm(request, Answer(batch_id="", error=reason, is_certain=is_certain), count=0, batch_size=1)

    def _confirm(self, request: SignalledWrite, answer: Answer, *, count: int, batch_size: int) -> None:
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
        self._confirmations.send(UnsentConfirmation(caller=request.requesting_workflow, confirmation=confirmation))

    def _must_continue_as_new(self) -> bool:
        """Whether a new run must take over. What is held must fit into its input: if it does not, requests are written
        first, unless they may not drain.
        """
        return (self._held_bytes() <= MAX_CARRIED_BYTES or self._may_not_drain()) and is_run_full(
            suggested=workflow.info().is_continue_as_new_suggested(),
            signals=self._signals,
            limits=self._limits,
            idle_runs=self._idle_runs(),
        )

    async def _prepare_to_continue_as_new(self) -> None:
        self._confirmations.hold_back()
        while self._may_not_drain() and self._held_bytes() > MAX_CARRIED_BYTES and len(self._pending):
            newest = self._pending.drop_newest()
            self._unanswered.discard(newest.identity)
            self._refuse(newest.request)
        await workflow.wait_condition(lambda: not self._confirmations.is_sending and workflow.all_handlers_finished())

    def _held_bytes(self) -> int:
        return self._pending.size_bytes + self._in_flight_bytes

    def _may_not_drain(self) -> bool:
        """Whether the pending writes may never get fewer, or not before the server terminates this run."""
        is_failing = self._batch is not None and self._batch.attempts > 0
        return is_failing or workflow.info().get_current_history_length() >= MAX_HISTORY_EVENTS

    def _is_retry_due(self) -> bool:
        return self._batch is not None and workflow.time() >= self._batch.retry_at_s

    def _idle_runs(self) -> int:
        return 0 if self._signals or self._batches else self._state.idle_runs + 1

    def _next_state(self) -> BatcherState:
        return BatcherState(
            limits=self._limits,
            waiting=[*self._in_flight, *self._pending.oldest_first()],
            remembered=self._written.newest(),
            processed_batches=self._state.processed_batches + self._batches,
            cycle=self._state.cycle + 1,
            idle_runs=self._idle_runs(),
            tried=self._batch,
            untold=self._confirmations.unsent(),
        )


def _size_bytes(queued_writes: list[QueuedWrite]) -> int:
    return sum(queued.size_bytes for queued in queued_writes)
