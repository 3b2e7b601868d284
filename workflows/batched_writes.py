"""BatchedWrites, with which any workflow submits writes and awaits their receipts."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError as ActivityTimeout, TimeoutType

from write_batcher.errors import WriteNotConfirmed, WriteNotSubmitted, WriteOutcomeUnknown, WriteRejected
from write_batcher.models import (
    ConfirmBy,
    Outcome,
    ReplyAddress,
    Submission,
    WriteReceipt,
    WriteRequest,
    batcher_task_queue,
)
from write_batcher.workflows.inbox import Inbox, Write, current_attempt
from write_batcher.workflows.request_checks import check_encodable
from write_batcher.workflows.write_options import OnRejected, WriteOptions

ENQUEUE_ATTEMPT_TIMEOUT = timedelta(seconds=15)
SETTLE_ATTEMPT_TIMEOUT = timedelta(seconds=15)
RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=10)
)

T = TypeVar("T")


class BatchedWrites:
    """Submits write requests of the current workflow.

    Create it in `__init__`, under `@workflow.init`: it registers the handler of the signal `write_confirmation`, which
    must exist before the first signal is delivered. A workflow may have several, for several queues.
    """

    def __init__(self, options: WriteOptions | None = None) -> None:
        self._options = options or WriteOptions()
        self._batcher_task_queue = self._options.batcher_task_queue or batcher_task_queue(self._options.queue)
        self._inbox = Inbox.of_this_workflow()

    async def submit(
        self, table: str, record: dict[str, Any], *, key: str | None = None, request_id: str | None = None
    ) -> WriteReceipt:
        """Submit `record` for the target table `table`, as JSON values by column name, and wait until its batch is
        written. May be called any number of times, also concurrently.

        Requests with the same `key` go to the same partition and are written in the order of their append; the default
        is the request id. The default `request_id` is stable over retries, replays and resets of this workflow, and new
        after continue-as-new. Give your own of at most 512 bytes, such as an order number, to have the record written
        once whichever workflows submit it. Submitted with another record, the same id is rejected.

        Returns the receipt, with the outcome `written` or `duplicate`. With `ConfirmBy.NONE` the outcome is `queued`,
        as soon as the request is appended.

        Raises `WriteRejected` when the database refuses the record, unless `on_rejected` is `OnRejected.WAIT`. Raises
        `WriteNotSubmitted` when the request is invalid or cannot be appended within `submit_timeout`,
        `WriteNotConfirmed` when no receipt comes within `confirm_timeout` and the write has been withdrawn, and
        `WriteOutcomeUnknown` when the database cannot be asked for the outcome within `settle_timeout`.

        When it is cancelled, it first withdraws the write, unless the outcome is decided; the message of the
        `CancelledError` names the outcome.
        """
        if request_id is None:
            request_id = self._inbox.next_request_id()
        key = request_id if key is None else key
        queue = self._options.queue
        call = self._inbox.next_call(queue, request_id)
        write = Write(queue=queue, request_id=request_id, table=table, record=record, key=key, call=call)
        check_encodable(write)
        self._inbox.expect(write)
        try:
            receipt = await self._obtain_receipt(write)
            while receipt.outcome is Outcome.REJECTED and self._waits_for_replay:
                workflow.logger.warning("request %s waits for a replay: %s", request_id, receipt.error)
                receipt = await self._inbox.wait_for_replacement(write, receipt)
        except asyncio.CancelledError:
            settled = await self._settle(write)
            raise asyncio.CancelledError(_outcome_of_cancelled(settled)) from None
        finally:
            self._inbox.forget(write)
        if receipt.outcome is Outcome.REJECTED:
            raise WriteRejected(
                f"The record of request {request_id!r} for table {table!r} is rejected: {receipt.error}"
            )
        if receipt.outcome is Outcome.WITHDRAWN:
            reason = receipt.error or (
                f"it was not written within {self._options.confirm_timeout.total_seconds():g}s after it was queued in "
                f"{self._options.queue!r}. Look at the batcher workers, at the workflow "
                f"write-batcher/{self._options.queue}/<partition>, and at the database."
            )
            raise WriteNotConfirmed(f"Request {request_id!r} is withdrawn: {reason}")
        return receipt

    async def _obtain_receipt(self, write: Write) -> WriteReceipt:
        half = self._options.confirm_timeout / 2
        try:
            receipt = await self._append_and_wait(write, submit_within=self._options.submit_timeout)
        except WriteNotSubmitted as failure:
            if _is_invalid(failure):
                raise
            # The answer of an append may have been lost, and its request be written: only the database knows.
            settled = await self._settle(write)
            if settled.outcome is Outcome.WITHDRAWN:
                raise
            return settled
        if receipt is None:
            workflow.logger.warning(
                "request %s has no receipt after half of the time, submitting again", write.request_id
            )
            # Counted from now, so that a caller whose own workers were down for longer still has its second half.
            deadline = workflow.time() + half.total_seconds()
            try:
                receipt = await self._append_and_wait(write, submit_within=half, deadline=deadline)
            except WriteNotSubmitted as failure:
                workflow.logger.warning("request %s could not be submitted again: %s", write.request_id, failure)
                # The entry of the first submit may still be in the queue.
                receipt = await self._inbox.wait(write, timedelta(seconds=deadline - workflow.time()))
        return receipt or await self._settle(write)

    async def _append_and_wait(
        self, write: Write, *, submit_within: timedelta, deadline: float | None = None
    ) -> WriteReceipt | None:
        """Append the request and wait for its receipt until `deadline`, by default for half of `confirm_timeout` after
        the append. None when no receipt came. Raises `WriteNotSubmitted` when the request cannot be appended.
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
            # An attempt waits for the receipt. One that got none is repeated by this workflow, not by Temporal.
            start_to_close_timeout=half,
            schedule_to_close_timeout=half if deadline else submit_within + half,
            retry_policy=replace(RETRY, non_retryable_error_types=["TemporalTimeout:StartToClose"]),
            summary=write.table,
        )
        try:
            return await self._result_or_receipt(write, waiting)
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
            retry_policy=RETRY,
            summary=write.table,
        )
        try:
            await self._result_or_receipt(write, appending)
        except ActivityError as error:
            raise self._not_submitted(write, within, error) from error

    async def _result_or_receipt(self, write: Write, enqueuing: "workflow.ActivityHandle[T]") -> T | WriteReceipt:
        """The activity's result, or the receipt if that comes first, because the result may be lost."""
        try:
            await workflow.wait_condition(lambda: enqueuing.done() or self._inbox.receipt(write) is not None)
        except asyncio.CancelledError:
            _abandon(enqueuing)
            raise
        receipt = self._inbox.receipt(write)
        if receipt is None:
            return await enqueuing
        _abandon(enqueuing)
        return receipt

    async def _settle(self, write: Write) -> WriteReceipt:
        """Withdraw the request or learn its outcome, even if cancelled meanwhile. Raises `WriteOutcomeUnknown` when the
        database cannot be asked.
        """
        settling = workflow.start_activity(
            "settle_write",
            self._submission(write),
            result_type=WriteReceipt,
            task_queue=self._batcher_task_queue,
            start_to_close_timeout=SETTLE_ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=self._options.settle_timeout,
            retry_policy=RETRY,
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
                raise asyncio.CancelledError(_outcome_of_cancelled(receipt))
            return receipt
        except ActivityError as error:
            raise WriteOutcomeUnknown(
                f"Request {write.request_id!r} is not confirmed, and the database could not be asked within "
                f"{self._options.settle_timeout.total_seconds():g}s whether it was written: look at the database and "
                f"at the batcher workers of task queue {self._batcher_task_queue!r}, then look up the request id in "
                "the table write_batcher_ledger."
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
            # With NONE, each call is an attempt by itself: the withdrawal of one that failed must not bind another that
            # was told "queued" and learns no more.
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
        # Temporal's text of a timeout speaks of retries and ScheduleToClose, which tells an operator nothing.
        timed_out = isinstance(error.cause, ActivityTimeout)
        reason = "the append did not answer. Look at Redis and at the workers of this workflow's task queue."
        return WriteNotSubmitted(
            f"Request {write.request_id!r} could not be appended to queue {self._options.queue!r} within "
            f"{within.total_seconds():g}s: {reason if timed_out else error.cause or error}"
        )


def _is_invalid(failure: WriteNotSubmitted) -> bool:
    """Whether the request is invalid, so that it was never appended."""
    cause = getattr(failure.__cause__, "cause", None)
    return isinstance(cause, ApplicationError) and cause.non_retryable


def _outcome_of_cancelled(receipt: WriteReceipt) -> str:
    return f"Request {receipt.request_id!r} was cancelled, its outcome is {receipt.outcome.value!r}."


def _abandon(enqueuing: "workflow.ActivityHandle[Any]") -> None:
    # Not awaited: its result may come in this very task, and then awaiting it would raise CancelledError.
    enqueuing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    enqueuing.cancel()
