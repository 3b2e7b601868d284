"""The example caller: a business step, one write by way of a batcher workflow, a final business step."""

import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from write_batcher import WriteFailed, WriteNotSubmitted, WriteOutcomeUnknown, WriteRejected
from write_batcher.compare.caller_steps import BUSINESS_S, business_step
from write_batcher.compare.signal_batcher.pending_writes import MAX_REQUEST_BYTES
from write_batcher.compare.signal_batcher.wire import (
    CONFIRMATION_SIGNAL,
    SUBMIT_SIGNAL,
    Confirmation,
    SignalledWrite,
    Status,
    batcher_of,
)

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 15.0


class WriteNotConfirmed(WriteFailed):
    """No confirmation came in time. Unlike with the queue, nothing is withdrawn: the write may have been made, or may
    still be made, once.
    """


class CallerStatus(StrEnum):
    """Where a caller is; the answer to its query `get_status`."""

    PREPARING = "preparing"
    WRITING = "writing"
    FINISHING = "finishing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMainInput:
    """What to write, and to which batchers: as many as their workers have. Durations in seconds."""

    item: str
    cents: int
    queue: str = "default"
    batchers: int = 1
    submit_timeout_s: float = 600.0
    confirm_timeout_s: float = 120.0
    business_s: float = BUSINESS_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMainResult:
    """The batch that wrote the row. `latency_ms` is the time from submitting it to having the confirmation."""

    request_id: str
    batch_id: str | None
    batch_size: int | None
    latency_ms: int


@workflow.defn
class SignalMainWorkflow:
    """Fails with WriteRejected, WriteNotSubmitted, WriteNotConfirmed or WriteOutcomeUnknown when its write does."""

    @workflow.init
    def __init__(self, order: SignalMainInput) -> None:
        info = workflow.info()
        self._order = order
        # The first execution run id survives a reset, after which the same write must not be made twice.
        self._request_id = f"{info.workflow_id}/{info.first_execution_run_id}"
        self._batcher = batcher_of(self._request_id, queue=order.queue, batchers=order.batchers)
        self._status = CallerStatus.PREPARING
        self._confirmation: Confirmation | None = None

    @workflow.run
    async def run(self, order: SignalMainInput) -> SignalMainResult:
        """The two business steps with the write between them."""
        try:
            await business_step("prepare", seconds=order.business_s)
            self._status = CallerStatus.WRITING
            submitted = workflow.time()
            await self._submit({"workflow_id": workflow.info().workflow_id, "item": order.item, "cents": order.cents})
            confirmation = await self._confirmed()
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
        """What became of the write. Total, as the batcher's handlers are; the first confirmation counts."""
        try:
            parsed = Confirmation.parse(confirmation)
        except ValueError as error:
            workflow.logger.warning("ignored what is no confirmation: %s", error)
            return
        if self._confirmation is None and parsed.request_id in (None, self._request_id):
            self._confirmation = parsed

    @workflow.query
    def get_status(self) -> CallerStatus:
        """Where this workflow is."""
        return self._status

    async def _submit(self, data: dict[str, Any]) -> None:
        """A signal straight from here costs one billable action; an activity that sends it would cost one more.

        Raises WriteNotSubmitted: a signal that was refused has not been delivered.
        """
        batcher = workflow.get_external_workflow_handle(self._batcher)
        deadline = workflow.time() + self._order.submit_timeout_s
        for attempt in itertools.count(1):
            request = self._request(data, attempt)
            try:
                await batcher.signal(SUBMIT_SIGNAL, request)
            except ApplicationError as error:
                delay_s = min(FIRST_RETRY_S * 2.0 ** min(attempt - 1, 20), LONGEST_RETRY_S)
                delay_s *= workflow.random().uniform(0.5, 1.0)
                if workflow.time() + delay_s > deadline:
                    raise WriteNotSubmitted(
                        f"request {self._request_id} was refused {attempt} times by batcher {self._batcher!r} within "
                        f"{self._order.submit_timeout_s:g}s: {error}; look whether "
                        "`write-batcher signal-batcher worker batcher` runs, with as many --partitions as its callers"
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
        # Temporal would fail the workflow task for ever over a signal that is far too large.
        [payload] = workflow.payload_converter().to_payloads([request])
        if len(payload.data) > MAX_REQUEST_BYTES:
            raise WriteNotSubmitted(
                f"request {self._request_id} has {len(payload.data)} bytes, the limit is {MAX_REQUEST_BYTES}: "
                "store large data elsewhere and write its address"
            )
        return request

    async def _confirmed(self) -> Confirmation:
        try:
            await workflow.wait_condition(
                lambda: self._confirmation is not None,
                timeout=self._order.confirm_timeout_s,
                timeout_summary="write confirmation",
            )
        except TimeoutError:
            raise WriteNotConfirmed(
                f"request {self._request_id} was not confirmed within {self._order.confirm_timeout_s:g}s by batcher "
                f"{self._batcher!r}: it may be written all the same; look at the batcher workers and at the database, "
                "and ask the table write_batcher_ledger for the request id"
            ) from None
        confirmation = self._confirmation
        assert confirmation is not None  # noqa: S101 - waited for
        if confirmation.status is Status.SUCCESS:
            return confirmation
        reason = confirmation.error or f"batcher {self._batcher!r} reports failure and gives no reason"
        if not confirmation.is_certain:
            raise WriteOutcomeUnknown(
                f"request {self._request_id}: {reason}; the database could not be asked whether it was written"
            )
        raise WriteRejected(f"the write of request {self._request_id} failed: {reason}")
