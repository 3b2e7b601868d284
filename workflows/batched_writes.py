"""What any workflow uses to submit a write and to await its receipt."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.converter import value_to_type
from temporalio.exceptions import ActivityError
from temporalio.exceptions import TimeoutError as ActivityTimeout

from write_batcher.errors import WriteNotConfirmed, WriteNotSubmitted, WriteRejected
from write_batcher.models import CONFIRMATION_SIGNAL, Outcome, ReplyAddress, Submission, WriteReceipt, WriteRequest

MAX_WORKFLOW_ID_BYTES = 400  # in a request id, which has at most 512 bytes
ENQUEUE_ATTEMPT_TIMEOUT = timedelta(seconds=15)
ENQUEUE_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=10)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How one workflow writes to one queue.

    `submit_timeout` bounds how long a request is tried to be appended, through outages of Redis and a full stream.
    `confirm_timeout` bounds the wait for the receipt from then on; when half of it has passed the request is submitted
    once more under the same id, in case Redis lost it. Keep it well above the batcher's `max_wait`.
    """

    queue: str = "default"
    submit_timeout: timedelta = timedelta(minutes=10)
    confirm_timeout: timedelta = timedelta(minutes=2)


class BatchedWrites:
    """Submits write requests of the current workflow. Make it in `__init__`, under `@workflow.init`, so that its
    signal handler stands before the first signal is delivered. Several may live in one workflow, one per queue.
    """

    def __init__(self, options: WriteOptions | None = None) -> None:
        self._options = options or WriteOptions()
        self._inbox = _Inbox.of_this_workflow()

    async def submit(
        self, table: str, record: dict[str, Any], *, key: str | None = None, request_id: str | None = None
    ) -> WriteReceipt:
        """Have `record` written to `table` in some batch; returns its receipt, `written` or `duplicate`.

        Requests with the same `key` go to the same partition and are written in order; the default is the request id.
        The default request id is stable over retries, replays and resets of this workflow, and new after
        continue-as-new. Give your own (an order number) to make the write unique beyond this workflow.

        Raises WriteRejected, WriteNotSubmitted or WriteNotConfirmed.
        """
        info = workflow.info()
        request_id = request_id or self._inbox.next_request_id()
        submission = Submission(
            queue=self._options.queue,
            key=key or request_id,
            request=WriteRequest(
                request_id=request_id,
                table=table,
                record=record,
                reply=ReplyAddress(workflow_id=info.workflow_id, run_id=info.run_id),
            ),
        )
        self._inbox.expect(submission.request)
        try:
            receipt = await self._receipt_of(submission)
        finally:
            self._inbox.forget(request_id)
        if receipt.outcome is Outcome.REJECTED:
            raise WriteRejected(
                f"the database refuses the record of request {request_id} for table {table!r}: {receipt.error}"
            )
        return receipt

    async def _receipt_of(self, submission: Submission) -> WriteReceipt:
        request_id = submission.request.request_id
        receipt = await self._enqueue(submission, self._options.submit_timeout)
        half = self._options.confirm_timeout / 2
        if receipt is None:
            receipt = await self._inbox.wait(request_id, half)
        if receipt is None:
            workflow.logger.warning("request %s: no receipt after half of the timeout, submitting again", request_id)
            # Measured from here: a caller whose own workers were down for longer still gets its second half.
            deadline = workflow.time() + half.total_seconds()
            try:
                receipt = await self._enqueue(submission, half)
            except WriteNotSubmitted as error:
                workflow.logger.warning("request %s: could not be submitted again: %s", request_id, error)
            if receipt is None:
                receipt = await self._inbox.wait(request_id, timedelta(seconds=deadline - workflow.time()))
        if receipt is None:
            raise WriteNotConfirmed(
                f"request {request_id} was queued in {self._options.queue!r} but not confirmed within "
                f"{self._options.confirm_timeout.total_seconds():g}s: look at the batcher workers, at the workflow "
                f"write-batcher/{self._options.queue}/<partition>, and at the database"
            )
        return receipt

    async def _enqueue(self, submission: Submission, timeout: timedelta) -> WriteReceipt | None:
        """Append the request; returns its receipt when that came first (the append's own answer may get lost)."""
        request_id = submission.request.request_id
        appending = workflow.start_activity(
            "enqueue_write",
            submission,
            schedule_to_close_timeout=timeout,
            start_to_close_timeout=ENQUEUE_ATTEMPT_TIMEOUT,
            retry_policy=ENQUEUE_RETRY,
            result_type=str,
            summary=submission.request.table,
        )
        await workflow.wait_condition(lambda: appending.done() or self._inbox.receipt(request_id) is not None)
        if not appending.done():
            appending.cancel()
        try:
            await appending
        except ActivityError as error:
            if receipt := self._inbox.receipt(request_id):
                return receipt
            raise WriteNotSubmitted(
                f"request {request_id} could not be appended to queue {self._options.queue!r} within "
                f"{timeout.total_seconds():g}s: {_reason(error)}"
            ) from error
        return self._inbox.receipt(request_id)


def _reason(error: ActivityError) -> str:
    # Temporal's own text speaks of retries and ScheduleToClose, which tells an operator nothing.
    if isinstance(error.cause, ActivityTimeout):
        return "the append did not answer; look at Redis and at the workers of this workflow's task queue"
    return str(error.cause or error)


class _Inbox:
    """Receipts that this workflow waits for. One per workflow: all BatchedWrites share its signal and its counter."""

    def __init__(self) -> None:
        self._submitted = 0
        self._waiting: dict[str, list[WriteRequest]] = {}
        self._receipts: dict[str, WriteReceipt] = {}

    @classmethod
    def of_this_workflow(cls) -> "_Inbox":
        handler = workflow.get_signal_handler(CONFIRMATION_SIGNAL)
        inbox = getattr(handler, "__self__", None)
        if not isinstance(inbox, cls):
            inbox = cls()
            workflow.set_signal_handler(CONFIRMATION_SIGNAL, inbox.on_confirmation)
        return inbox

    def next_request_id(self) -> str:
        # The first execution run id survives a reset; a random id would not, and a reset would write twice.
        # Without `after-` the first two runs of a continue-as-new chain would share their ids.
        info = workflow.info()
        self._submitted += 1
        run = f"after-{info.continued_run_id}" if info.continued_run_id else info.first_execution_run_id
        return f"{_shortened(info.workflow_id)}/{run}/{self._submitted}"

    def expect(self, request: WriteRequest) -> None:
        """Raises WriteRejected when the id is being submitted with another record: one receipt could not tell them
        apart.
        """
        waiting = self._waiting.setdefault(request.request_id, [])
        if any((other.table, other.record) != (request.table, request.record) for other in waiting):
            raise WriteRejected(
                f"request id {request.request_id} is being submitted with another record: "
                "give each record a request id of its own"
            )
        waiting.append(request)

    def forget(self, request_id: str) -> None:
        self._waiting[request_id].pop()
        if not self._waiting[request_id]:
            del self._waiting[request_id]
            self._receipts.pop(request_id, None)

    def receipt(self, request_id: str) -> WriteReceipt | None:
        return self._receipts.get(request_id)

    async def wait(self, request_id: str, timeout: timedelta) -> WriteReceipt | None:
        """The receipt, or None when it does not come within `timeout`."""
        if timeout <= timedelta(0):
            return self.receipt(request_id)
        try:
            await workflow.wait_condition(
                lambda: request_id in self._receipts, timeout=timeout, timeout_summary="write confirmation"
            )
        except TimeoutError:
            return None
        return self.receipt(request_id)

    def on_confirmation(self, receipts: Any = None, *_rest: Any) -> None:
        # Anyone may send this signal. A handler that raises would fail the workflow task for ever, so it takes any
        # arguments and ignores what is no receipt, not awaited, or known already.
        for item in receipts if isinstance(receipts, list) else []:
            try:
                receipt: WriteReceipt = value_to_type(WriteReceipt, item)
            except Exception:  # noqa: BLE001 - see above
                workflow.logger.warning("ignored a malformed receipt")
                continue
            if receipt.request_id in self._waiting:
                self._receipts.setdefault(receipt.request_id, receipt)


def _shortened(workflow_id: str) -> str:
    # Temporal allows workflow ids of 1,000 bytes, a request id has 512.
    if len(workflow_id.encode()) <= MAX_WORKFLOW_ID_BYTES:
        return workflow_id
    return f"{workflow_id[:40]}~{sha256(workflow_id.encode()).hexdigest()}"
