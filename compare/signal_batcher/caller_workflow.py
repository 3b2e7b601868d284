"""The example caller: a business step, one write through a batcher workflow, a final business step."""

import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from write_batcher import WriteFailed, WriteNotSubmitted, WriteOutcomeUnknown, WriteRejected
from write_batcher.compare.caller_steps import BUSINESS_STEP_S, business_step
from write_batcher.compare.signal_batcher.batcher_limits import MAX_REQUEST_BYTES, retry_delay_s
from write_batcher.compare.signal_batcher.wire import (
    CONFIRMATION_SIGNAL,
    SUBMIT_SIGNAL,
    Confirmation,
    SignalledWrite,
    Status,
    batcher_of,
)


class ConfirmationTimedOut(WriteFailed):
    """No confirmation came in time. The write may have been made, or may still be made, once: unlike the library, this
    design withdraws nothing.
    """


class CallerStatus(StrEnum):
    """The step that a caller has reached; the answer to its query `get_status`."""

    PREPARING = "preparing"
    WRITING = "writing"
    FINISHING = "finishing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMainInput:
    """What to write, and through which batchers. Durations are in seconds."""

    item: str
    cents: int
    queue: str = "default"
    batchers: int = 1
    """Must be the `partitions` of the batcher worker."""
    submit_timeout_s: float = 600.0
    confirm_timeout_s: float = 120.0
    business_s: float = BUSINESS_STEP_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMainResult:
    """The batch that wrote the row, and how long it took."""

    request_id: str
    batch_id: str | None
    batch_size: int | None
    latency_ms: int
    """From submitting the request to having the confirmation."""


@workflow.defn
class SignalMainWorkflow:
    """Writes one row between two business steps.

    Fails with `WriteRejected`, `WriteNotSubmitted`, `ConfirmationTimedOut` or `WriteOutcomeUnknown`.
    """

    @workflow.init
    def __init__(self, order: SignalMainInput) -> None:
        info = workflow.info()
        self._order = order
        # The first execution run id survives a reset, which must not make the same write twice.
        self._request_id = f"{info.workflow_id}/{info.first_execution_run_id}"
        self._batcher = batcher_of(self._request_id, queue=order.queue, batchers=order.batchers)
        self._status = CallerStatus.PREPARING
        self._confirmation: Confirmation | None = None

    @workflow.run
    async def run(self, order: SignalMainInput) -> SignalMainResult:
        """Return the batch that wrote the row."""
        try:
            await business_step("prepare", seconds=order.business_s)
            self._status = CallerStatus.WRITING
            submitted = workflow.time()
            await self._submit({"workflow_id": workflow.info().workflow_id, "item": order.item, "cents": order.cents})
            confirmation = await self._wait_for_confirmation()
            latency_ms = round((workflow.time() - submitted) * 1000)
            self._status = CallerStatus.FINISHING
            await business_step("finish", seconds=order.business_s)
        except Exception:
            self._status = CallerStatus.FAILED
            raise
        self._status = CallerStatus.COMPLETED
        return SignalMainResult(
            request_id=self._request_id,
            batch_id=confirmation.batch_id,
            batch_size=confirmation.batch_size,
            latency_ms=latency_ms,
        )

    @workflow.signal(name=CONFIRMATION_SIGNAL)
    def write_confirmation(self, confirmation: Any = None, *_rest: Any) -> None:
        """Take the first confirmation of this write. Accepts any argument, as the batcher's handlers do."""
        try:
            parsed = Confirmation.parse(confirmation)
        except ValueError as error:
            workflow.logger.warning("ignored a malformed confirmation: %s", error)
            return
        if self._confirmation is None and parsed.request_id in (None, self._request_id):
            self._confirmation = parsed

    @workflow.query
    def get_status(self) -> CallerStatus:
        """Return the step that this workflow has reached."""
        return self._status

    async def _submit(self, data: dict[str, Any]) -> None:
        """Signal the batcher, again after each refusal.

        Raises `WriteNotSubmitted` when it is refused until `submit_timeout_s`: a refused signal was not delivered.
        """
        # Sent by the workflow itself it is one billable action; by an activity it would be two.
        batcher = workflow.get_external_workflow_handle(self._batcher)
        deadline = workflow.time() + self._order.submit_timeout_s
        for attempt in itertools.count(1):
            request = self._request(data, attempt)
            try:
                await batcher.signal(SUBMIT_SIGNAL, request)
            except ApplicationError as error:
                delay_s = retry_delay_s(attempt, workflow.random().random())
                if workflow.time() + delay_s > deadline:
                    raise WriteNotSubmitted(
                        f"Request {self._request_id!r} was refused {attempt} times by batcher {self._batcher!r} within "
                        f"{self._order.submit_timeout_s:g}s ({error}): check that `write-batcher signal-batcher worker "
                        "batcher` runs, with the same --partitions as its callers."
                    ) from error
                await workflow.sleep(delay_s)
            else:
                return

    def _request(self, data: dict[str, Any], attempt: int) -> SignalledWrite:
        workflow_id = workflow.info().workflow_id
        request = SignalledWrite(
            workflow_id=workflow_id,
            data=data,
            requesting_workflow=workflow_id,
            request_id=self._request_id,
            submitted_at=workflow.now().isoformat(),
            attempt=attempt,
        )
        # A signal that is far too large would fail the workflow task again and again.
        [payload] = workflow.payload_converter().to_payloads([request])
        if len(payload.data) > MAX_REQUEST_BYTES:
            raise WriteNotSubmitted(
                f"Request {self._request_id!r} has {len(payload.data)} bytes, the limit is {MAX_REQUEST_BYTES}: "
                "store large data elsewhere and write its address."
            )
        return request

    async def _wait_for_confirmation(self) -> Confirmation:
        try:
            await workflow.wait_condition(
                lambda: self._confirmation is not None,
                timeout=self._order.confirm_timeout_s,
                timeout_summary="write confirmation",
            )
        except TimeoutError:
            raise ConfirmationTimedOut(
                f"Request {self._request_id!r} was not confirmed within {self._order.confirm_timeout_s:g}s by batcher "
                f"{self._batcher!r}, and may still be written: check the batcher workers and the database, and look up "
                "the request id in the table write_batcher_ledger."
            ) from None
        confirmation = self._confirmation
        assert confirmation is not None  # noqa: S101 - awaited above
        if confirmation.status is Status.SUCCESS:
            return confirmation
        reason = confirmation.error or f"batcher {self._batcher!r} reports failure and gives no reason"
        if not confirmation.is_certain:
            raise WriteOutcomeUnknown(
                f"Request {self._request_id!r} may or may not be written, the database could not be asked: {reason}"
            )
        raise WriteRejected(f"Request {self._request_id!r} was rejected: {reason}")
