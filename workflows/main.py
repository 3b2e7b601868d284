"""An example caller: a business step, one batched write that it waits for, a final business step."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from temporalio import workflow
from temporalio.common import RetryPolicy

from write_batcher.activities.business import BusinessStep, do_business_step
from write_batcher.models import ConfirmBy, FlushReason, Outcome
from write_batcher.workflows.batched_writes import BatchedWrites
from write_batcher.workflows.write_options import WriteOptions

TABLE = "main_writes"
STEP_TIMEOUT = timedelta(minutes=1)
STEP_RETRY = RetryPolicy(maximum_attempts=5)


class MainStatus(StrEnum):
    """The phase of a MainWorkflow: the answer to its query `status`."""

    PREPARING = "preparing"
    WRITING = "writing"
    FINISHING = "finishing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MainInput:
    """What to write, and how. Durations are in seconds."""

    item: str
    cents: int
    queue: str = "default"
    batcher_task_queue: str | None = None
    confirm_by: ConfirmBy = ConfirmBy.SIGNAL
    submit_timeout_s: float = 600.0
    confirm_timeout_s: float = 120.0
    business_s: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MainResult:
    """What became of the write."""

    request_id: str
    outcome: Outcome
    batch_id: str | None
    batch_size: int | None
    flush_reason: FlushReason | None
    latency_ms: int
    """Milliseconds from the submit to the receipt."""


@workflow.defn
class MainWorkflow:
    """The example caller. It fails with the error of its write: `WriteRejected`, `WriteNotSubmitted`,
    `WriteNotConfirmed` or `WriteOutcomeUnknown`.
    """

    @workflow.init
    def __init__(self, order: MainInput) -> None:
        self._status = MainStatus.PREPARING
        self._writes = BatchedWrites(
            WriteOptions(
                queue=order.queue,
                batcher_task_queue=order.batcher_task_queue,
                confirm_by=order.confirm_by,
                submit_timeout=timedelta(seconds=order.submit_timeout_s),
                confirm_timeout=timedelta(seconds=order.confirm_timeout_s),
            )
        )

    @workflow.run
    async def run(self, order: MainInput) -> MainResult:
        """Do two business steps, with the write between them."""
        try:
            await self._business_step("prepare", order)
            self._status = MainStatus.WRITING
            submitted = workflow.time()
            receipt = await self._writes.submit(
                TABLE, {"workflow_id": workflow.info().workflow_id, "item": order.item, "cents": order.cents}
            )
            latency_ms = round((workflow.time() - submitted) * 1000)
            self._status = MainStatus.FINISHING
            await self._business_step("finish", order)
        except Exception:
            self._status = MainStatus.FAILED
            raise
        self._status = MainStatus.COMPLETED
        return MainResult(
            request_id=receipt.request_id,
            outcome=receipt.outcome,
            batch_id=receipt.batch_id,
            batch_size=receipt.batch_size,
            flush_reason=receipt.flush_reason,
            latency_ms=latency_ms,
        )

    @workflow.query
    def status(self) -> MainStatus:
        """Return the phase that this workflow is in."""
        return self._status

    async def _business_step(self, name: str, order: MainInput) -> None:
        await workflow.execute_activity(
            do_business_step,
            BusinessStep(name=name, seconds=order.business_s),
            start_to_close_timeout=STEP_TIMEOUT,
            retry_policy=STEP_RETRY,
        )
