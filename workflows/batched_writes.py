"""What any workflow uses to submit a write and to await its receipt."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError as ActivityTimeout, TimeoutType

from write_batcher.errors import WriteNotConfirmed, WriteNotSubmitted, WriteOutcomeUnknown, WriteRejected
from write_batcher.models import (
    MAX_REQUEST_ID_BYTES,
    ConfirmBy,
    Outcome,
    ReplyAddress,
    Submission,
    WriteReceipt,
    WriteRequest,
    batcher_task_queue,
)
from write_batcher.workflows.inbox import Inbox, Write, current_attempt

MAX_RECORD_BYTES = 1_000_000  # an activity's input may have 2 MB, with all that goes around the record
ENQUEUE_ATTEMPT_TIMEOUT = timedelta(seconds=15)
ENQUEUE_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=10)
)


SETTLE_ATTEMPT_TIMEOUT = timedelta(seconds=15)

T = TypeVar("T")


class OnRejected(StrEnum):
    """What `submit` does when the database refuses the record."""

    FAIL = "fail"
    """Raise WriteRejected."""
    WAIT = "wait"
    """Wait, for days if need be, until an operator has repaired the cause and replayed the dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How one workflow writes to one queue.

    `submit_timeout` bounds how long a request is tried to be appended, through outages of Redis and a full stream.
    `confirm_timeout` bounds the wait for the receipt from then on; when half of it has passed the request is submitted
    once more under the same id, in case Redis lost it. Keep it well above the batcher's `max_wait`.
    `settle_timeout` bounds how long the database is then asked for the outcome, on `batcher_task_queue`,
    by default that of the queue.
    """

    queue: str = "default"
    confirm_by: ConfirmBy = ConfirmBy.SIGNAL
    on_rejected: OnRejected = OnRejected.FAIL
    submit_timeout: timedelta = timedelta(minutes=10)
    confirm_timeout: timedelta = timedelta(minutes=2)
    settle_timeout: timedelta = timedelta(minutes=1)
    batcher_task_queue: str | None = None


class BatchedWrites:
    """Submits write requests of the current workflow. Make it in `__init__`, under `@workflow.init`, so that its
    signal handler stands before the first signal is delivered. Several may live in one workflow, one per queue.
    """

    def __init__(self, options: WriteOptions | None = None) -> None:
        self._options = options or WriteOptions()
        self._batcher_task_queue = self._options.batcher_task_queue or batcher_task_queue(self._options.queue)
        self._inbox = Inbox.of_this_workflow()

    async def submit(
        self, table: str, record: dict[str, Any], *, key: str | None = None, request_id: str | None = None
    ) -> WriteReceipt:
        """Have `record` written to `table` in some batch; returns its receipt, `written` or `duplicate` (`queued`, as
        soon as it is appended, with `ConfirmBy.NONE`: then nothing waits for a replay either).

        Requests with the same `key` go to the same partition and are written in order; the default is the request id.
        The default request id is stable over retries, replays and resets of this workflow, and new after
        continue-as-new. Give your own (an order number) to make the write unique beyond this workflow.

        Raises WriteRejected, WriteNotSubmitted, WriteNotConfirmed or WriteOutcomeUnknown. When it is cancelled it
        settles first: the write is withdrawn unless it was made already, which the CancelledError's message tells.
        """
        if request_id is None:
            request_id = self._inbox.next_request_id()
        key = request_id if key is None else key
        queue = self._options.queue
        call = self._inbox.next_call(queue, request_id)
        write = Write(queue=queue, request_id=request_id, table=table, record=record, key=key, call=call)
        _check_encodable(write)
        self._inbox.expect(write)
        try:
            receipt = await self._receipt_of(write)
            while receipt.outcome is Outcome.REJECTED and self._waits_for_replay:
                workflow.logger.warning("request %s waits for a replay: %s", request_id, receipt.error)
                receipt = await self._inbox.wait_for_another(write, receipt)
        except asyncio.CancelledError:
            settled = await self._settle(write)
            raise asyncio.CancelledError(f"request {request_id}: {settled.outcome.value}") from None
        finally:
            self._inbox.forget(write)
        if receipt.outcome is Outcome.REJECTED:
            raise WriteRejected(
                f"the database refuses the record of request {request_id} for table {table!r}: {receipt.error}"
            )
        if receipt.outcome is Outcome.WITHDRAWN:
            reason = receipt.error or (
                f"it was not written within {self._options.confirm_timeout.total_seconds():g}s after it was queued in "
                f"{self._options.queue!r}: look at the batcher workers, at the workflow "
                f"write-batcher/{self._options.queue}/<partition>, and at the database"
            )
            raise WriteNotConfirmed(f"request {request_id} is withdrawn: {reason}")
        return receipt

    async def _receipt_of(self, write: Write) -> WriteReceipt:
        half = self._options.confirm_timeout / 2
        try:
            receipt = await self._ask(write, submit_within=self._options.submit_timeout)
        except WriteNotSubmitted as failure:
            if _is_invalid(failure):
                raise
            # An append whose answer got lost may still be written: only the database knows.
            settled = await self._settle(write)
            if settled.outcome is Outcome.WITHDRAWN:
                raise
            return settled
        if receipt is None:
            workflow.logger.warning("request %s: no receipt in half of the time, submitting again", write.request_id)
            # From here, so that a caller whose own workers were down for longer still gets its second half.
            deadline = workflow.time() + half.total_seconds()
            try:
                receipt = await self._ask(write, submit_within=half, deadline=deadline)
            except WriteNotSubmitted as failure:
                workflow.logger.warning("request %s: could not be submitted again: %s", write.request_id, failure)
                # The first entry may be in the queue all the same.
                receipt = await self._inbox.wait(write, timedelta(seconds=deadline - workflow.time()))
        return receipt or await self._settle(write)

    async def _ask(
        self, write: Write, *, submit_within: timedelta, deadline: float | None = None
    ) -> WriteReceipt | None:
        """Append the request and wait for its receipt until the deadline, by default for half of the timeout from the
        append on; None when none came. Raises WriteNotSubmitted.
        """
        half = self._options.confirm_timeout / 2
        if self._options.confirm_by is ConfirmBy.NONE:
            await self._append(write, within=submit_within)
            return WriteReceipt(request_id=write.request_id, outcome=Outcome.QUEUED)
        if self._options.confirm_by is ConfirmBy.SIGNAL:
            await self._append(write, within=submit_within)
            left = half if deadline is None else timedelta(seconds=deadline - workflow.time())
            return await self._inbox.wait(write, left)
        waiting = workflow.start_activity(
            "enqueue_write",
            self._submission(write),
            result_type=WriteReceipt,
            # Its attempts wait for the receipt; one that got none is not tried again by Temporal but here.
            start_to_close_timeout=half,
            schedule_to_close_timeout=half if deadline else submit_within + half,
            retry_policy=replace(ENQUEUE_RETRY, non_retryable_error_types=["TemporalTimeout:StartToClose"]),
            summary=write.table,
        )
        try:
            return await self._unless_signalled(write, waiting)
        except ActivityError as error:
            if isinstance(error.cause, ActivityTimeout) and error.cause.type is TimeoutType.START_TO_CLOSE:
                return None
            raise self._not_submitted(write, submit_within, error) from error

    async def _append(self, write: Write, *, within: timedelta) -> None:
        appending = workflow.start_activity(
            "enqueue_write",
            self._submission(write),
            result_type=str,
            start_to_close_timeout=ENQUEUE_ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=within,
            retry_policy=ENQUEUE_RETRY,
            summary=write.table,
        )
        try:
            await self._unless_signalled(write, appending)
        except ActivityError as error:
            raise self._not_submitted(write, within, error) from error

    async def _unless_signalled(self, write: Write, asking: "workflow.ActivityHandle[T]") -> T | WriteReceipt:
        """What the activity answers, or the receipt when that comes first: the activity's own answer may get lost."""
        try:
            await workflow.wait_condition(lambda: asking.done() or self._inbox.receipt(write) is not None)
        except asyncio.CancelledError:
            _abandon(asking)
            raise
        receipt = self._inbox.receipt(write)
        if receipt is None:
            return await asking
        _abandon(asking)
        return receipt

    async def _settle(self, write: Write) -> WriteReceipt:
        """Withdraw the request, or learn its outcome, also when cancelled meanwhile. Raises WriteOutcomeUnknown."""
        settling = workflow.start_activity(
            "settle_write",
            self._submission(write),
            result_type=WriteReceipt,
            task_queue=self._batcher_task_queue,
            start_to_close_timeout=SETTLE_ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=self._options.settle_timeout,
            retry_policy=ENQUEUE_RETRY,
            summary=write.table,
        )
        cancelled = False
        while not settling.done():
            try:
                await workflow.wait_condition(settling.done)
            except asyncio.CancelledError:
                cancelled = True
        try:
            receipt: WriteReceipt = await settling
            if cancelled:
                raise asyncio.CancelledError(f"request {write.request_id}: {receipt.outcome.value}")
            return receipt
        except ActivityError as error:
            raise WriteOutcomeUnknown(
                f"request {write.request_id} is not confirmed, and the database could not be asked within "
                f"{self._options.settle_timeout.total_seconds():g}s whether it was written: look at the database and "
                f"at the batcher workers of task queue {self._batcher_task_queue!r}, then ask the table "
                "write_batcher_ledger for the request id"
            ) from error

    @property
    def _waits_for_replay(self) -> bool:
        return self._options.on_rejected is OnRejected.WAIT and self._options.confirm_by is not ConfirmBy.NONE

    def _submission(self, write: Write) -> Submission:
        return Submission(queue=self._options.queue, key=write.key, request=self._request(write))

    def _request(self, write: Write) -> WriteRequest:
        info = workflow.info()
        mode = self._options.confirm_by
        reply = ReplyAddress(
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            # Nobody learns later what became of a call that was told "queued": one that failed must not bind it.
            attempt=f"{current_attempt()}-{write.call}" if mode is ConfirmBy.NONE else current_attempt(),
            mode=mode,
            call=write.call,
        )
        return WriteRequest(
            request_id=write.request_id,
            table=write.table,
            record=write.record,
            reply=reply,
            asked_ms=round(workflow.time() * 1000),
        )

    def _not_submitted(self, write: Write, within: timedelta, error: ActivityError) -> WriteNotSubmitted:
        # Temporal's own text of a timeout speaks of retries and ScheduleToClose, which tells an operator nothing.
        timed_out = isinstance(error.cause, ActivityTimeout)
        reason = "the append did not answer; look at Redis and at the workers of this workflow's task queue"
        return WriteNotSubmitted(
            f"request {write.request_id} could not be appended to queue {self._options.queue!r} within "
            f"{within.total_seconds():g}s: {reason if timed_out else error.cause or error}"
        )


def _check_encodable(write: Write) -> None:
    """Raises WriteNotSubmitted. Found only when Temporal encodes the activity's input, it would fail the workflow task
    for ever, and with it the workflow.
    """
    id_bytes = len(write.request_id.encode(errors="surrogatepass"))
    if not 1 <= id_bytes <= MAX_REQUEST_ID_BYTES:
        raise WriteNotSubmitted(
            f"request id {write.request_id[:80]!r} has {id_bytes} bytes: use 1 to {MAX_REQUEST_ID_BYTES}, "
            "or leave it out"
        )
    try:
        [payload] = workflow.payload_converter().to_payloads([write])
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise WriteNotSubmitted(
            f"the record of request {write.request_id} for table {write.table!r} cannot be encoded: {error}; "
            "give it values of JSON"
        ) from error
    if len(payload.data) > MAX_RECORD_BYTES:
        raise WriteNotSubmitted(
            f"the record of request {write.request_id} for table {write.table!r} has {len(payload.data)} bytes, "
            f"Temporal takes {MAX_RECORD_BYTES} at most: store large data elsewhere and write its address"
        )


def _is_invalid(failure: WriteNotSubmitted) -> bool:
    """Whether the request was never appended, because no entry can carry it."""
    cause = getattr(failure.__cause__, "cause", None)
    return isinstance(cause, ApplicationError) and cause.non_retryable


def _abandon(asking: "workflow.ActivityHandle[Any]") -> None:
    # Not awaited: its answer may come in this very task, and then awaiting it would raise CancelledError.
    asking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    asking.cancel()
