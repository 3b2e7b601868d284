"""The batcher as a workflow: it collects requests from signals, has them written in batches, and tells the callers."""

import asyncio
import contextlib
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.converter import value_to_type
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from write_batcher.compare.signal_batcher.batch_activities import (
    MAX_ERROR_CHARS,
    Answer,
    BatchActivities,
    GivenUpBatch,
    SignalledBatch,
)
from write_batcher.compare.signal_batcher.pending_writes import (
    LONGEST_HISTORY,
    MAX_CARRIED_BYTES,
    MAX_CARRIED_CONFIRMATION_BYTES,
    MAX_REQUEST_BYTES,
    BatcherLimits,
    BatcherState,
    Line,
    QueuedWrite,
    Remembered,
    TriedBatch,
    Untold,
    is_run_full,
    retry_delay_s,
)
from write_batcher.compare.signal_batcher.wire import (
    CONFIRMATION_SIGNAL,
    SUBMIT_SIGNAL,
    BatcherStats,
    Confirmation,
    SignalledWrite,
    Status,
)

# Of one workflow task. A worker that takes over replays the whole run in its first: six seconds for 25,000 events. But
# for so long a batcher also waits for a worker that was killed with a task in its hands.
TASK_TIMEOUT = timedelta(seconds=30)

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
        self._tried = state.tried
        self._in_flight = state.waiting[: state.tried.items] if state.tried else []
        self._in_flight_bytes = _size_bytes(self._in_flight)
        self._line = Line(state.waiting[len(self._in_flight) :])
        self._remembered = Remembered(state.remembered)
        self._open = {one.identity for one in state.waiting}
        self._signals = 0
        self._batches = 0
        self._is_ending = False
        self._confirming: set[asyncio.Task[None]] = set()
        self._confirmations_at_once = state.limits.confirmations_at_once
        self._untold = deque(state.untold)
        self._untold_bytes = sum(one.size_bytes for one in state.untold)

    @workflow.run
    async def run(self, _state: BatcherState) -> None:
        """Write batch after batch."""
        self._start_confirming()
        while True:
            await self._until_there_is_work()
            # A batch whose time has come is tried first, so that one run after another does not only hand it on.
            if self._must_give_way() and not self._is_retry_due():
                await self._prepare_to_end()
                # Requests that came meanwhile are in line; too many for the next run to begin with are written first.
                if self._must_give_way() and self._held_bytes() <= MAX_CARRIED_BYTES:
                    workflow.continue_as_new(self._next_state(), task_timeout=TASK_TIMEOUT)
                self._is_ending = False
                self._start_confirming()
            else:
                await self._try_a_batch()

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
        elif self._is_in_trouble() and self._held_bytes() + queued.size_bytes > MAX_CARRIED_BYTES:
            self._refuse(parsed)
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
            pending_writes=len(self._line) + len(self._in_flight),
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
        """Until a batch must be written, or a new run must take over. One timer for each batch that is not full, and
        for each further attempt.
        """
        if self._tried:
            wait_s = self._tried.retry_at_s - workflow.time()
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(
                        self._must_give_way, timeout=wait_s, timeout_summary="next attempt to write the batch"
                    )
            return
        await workflow.wait_condition(lambda: len(self._line) > 0 or self._must_give_way())
        while (closes_in := self._closes_in()) and not self._must_give_way():
            limits = self._limits
            try:
                await workflow.wait_condition(
                    lambda limits=limits: (  # type: ignore[misc]
                        self._closes_in() == 0 or self._limits != limits or self._must_give_way()
                    ),
                    timeout=closes_in,
                    timeout_summary="age of the batch",
                )
            except TimeoutError:
                return

    def _closes_in(self) -> float | None:
        return self._line.closes_in(self._limits, workflow.time())

    def _take_a_batch(self) -> TriedBatch:
        reason, self._in_flight = self._line.take(self._limits)
        self._in_flight_bytes = _size_bytes(self._in_flight)
        info = workflow.info()
        return TriedBatch(
            batch_id=f"{info.workflow_id}/{info.run_id[:8]}-{self._batches + 1}",
            flush_reason=reason,
            items=len(self._in_flight),
            attempts=0,
            retry_at_s=0.0,
        )

    async def _try_a_batch(self) -> None:
        """Once. What cannot be written stays in flight."""
        tried = self._tried = self._tried or self._take_a_batch()
        queued = self._in_flight
        answers = await self._answers(tried, tuple(one.request for one in queued))
        if answers is None:
            return
        count = sum(answer.error is None for answer in answers)
        for one, answer in zip(queued, answers, strict=True):
            self._open.discard(one.identity)
            if answer.error is None:
                self._remembered.add(one.request)
            self._tell(one.request, answer, count=count, batch_size=len(queued))
        self._in_flight = []
        self._in_flight_bytes = 0
        self._tried = None
        self._batches += 1

    async def _answers(self, tried: TriedBatch, requests: tuple[SignalledWrite, ...]) -> list[Answer] | None:
        """One for each request: written, refused, or given up after so many attempts. None: it must be tried again."""
        attempts = tried.attempts + 1
        batch = SignalledBatch(
            batch_id=tried.batch_id, flush_reason=tried.flush_reason, requests=requests, attempt=attempts
        )
        try:
            return await workflow.execute_activity_method(
                BatchActivities.write_batch,
                batch,
                start_to_close_timeout=WRITE_TIMEOUT,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                # It is tried again from here: the server's retries would hold up the end of a run for minutes.
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if attempts < self._limits.write_attempts:
                retry_at_s = workflow.time() + retry_delay_s(attempts, workflow.random().random())
                self._tried = replace(tried, attempts=attempts, retry_at_s=retry_at_s)
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
        reason = f"the batcher is full: {self._held_bytes()} bytes of requests wait for the database; this one is not "
        reason += "written: look at the database, and ask again later"
        if not request.requesting_workflow:
            workflow.logger.error("request %s, for which nobody waits, is lost: %s", request.request_id, reason)
        # Whoever asks anew may have been written by an earlier try.
        is_certain = request.request_id not in self._remembered
        self._tell(request, Answer(batch_id="", error=reason, is_certain=is_certain), count=0, batch_size=1)

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
        self._confirm_soon(Untold(caller=request.requesting_workflow, confirmation=confirmation))

    def _confirm_soon(self, one: Untold) -> None:
        self._untold.append(one)
        self._untold_bytes += one.size_bytes
        self._start_confirming()

    def _start_confirming(self) -> None:
        """As many at once as the limit allows. Those that a run need not begin before it ends are left to the next:
        in a stream of refusals there would always be one on its way.
        """
        while self._untold and len(self._confirming) < self._confirmations_at_once:
            if self._is_ending and self._untold_bytes <= MAX_CARRIED_CONFIRMATION_BYTES:
                return
            one = self._untold.popleft()
            self._untold_bytes -= one.size_bytes
            confirming = asyncio.create_task(self._confirm(one.caller, one.confirmation))
            self._confirming.add(confirming)
            confirming.add_done_callback(self._confirmed)

    def _confirmed(self, confirming: asyncio.Task[None]) -> None:
        self._confirming.discard(confirming)
        self._start_confirming()

    async def _confirm(self, caller: str, confirmation: Confirmation) -> None:
        handle = workflow.get_external_workflow_handle(caller)
        for attempt in range(1, CONFIRM_ATTEMPTS + 1):
            try:
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
        """Whether a new run must take over. What is held must fit into its input, so that a line that is too long is
        written first, unless that cannot be awaited.
        """
        return (self._held_bytes() <= MAX_CARRIED_BYTES or self._is_in_trouble()) and is_run_full(
            suggested=workflow.info().is_continue_as_new_suggested(),
            signals=self._signals,
            limits=self._limits,
            idle_runs=self._idle_runs(),
        )

    async def _prepare_to_end(self) -> None:
        self._is_ending = True
        while self._is_in_trouble() and self._held_bytes() > MAX_CARRIED_BYTES and len(self._line):
            newest = self._line.drop_newest()
            self._open.discard(newest.identity)
            self._refuse(newest.request)
        await workflow.wait_condition(lambda: not self._confirming and workflow.all_handlers_finished())

    def _held_bytes(self) -> int:
        return self._line.size_bytes + self._in_flight_bytes

    def _is_in_trouble(self) -> bool:
        """Whether the line may never get shorter, or not in time."""
        is_failing = self._tried is not None and self._tried.attempts > 0
        return is_failing or workflow.info().get_current_history_length() >= LONGEST_HISTORY

    def _is_retry_due(self) -> bool:
        return self._tried is not None and workflow.time() >= self._tried.retry_at_s

    def _idle_runs(self) -> int:
        return 0 if self._signals or self._batches else self._state.idle_runs + 1

    def _next_state(self) -> BatcherState:
        return BatcherState(
            limits=self._limits,
            waiting=[*self._in_flight, *self._line.waiting()],
            remembered=self._remembered.newest(),
            processed_batches=self._state.processed_batches + self._batches,
            cycle=self._state.cycle + 1,
            idle_runs=self._idle_runs(),
            tried=self._tried,
            untold=list(self._untold),
        )


def _size_bytes(queued: list[QueuedWrite]) -> int:
    return sum(one.size_bytes for one in queued)
