"""The caller workflows of `direct`, of this library and of the baseline: the same steps around the write."""

from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow

from write_batcher import BatchedWrites, ConfirmBy, WriteOptions
from write_batcher.compare.caller_steps import business_step

WRITE_ATTEMPT_TIMEOUT = timedelta(seconds=15)  # the same as for an attempt of the activity `enqueue_write`
TABLE = "main_writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerInput:
    """What to write."""

    item: str
    cents: int
    write_timeout_s: float
    """Bounds the write with all its retries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCallerInput(CallerInput):
    """What to write, and through which queue."""

    queue: str
    batcher_task_queue: str
    confirm_by: ConfirmBy
    submit_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectWrite:
    """One row of `main_writes`."""

    workflow_id: str
    item: str
    cents: int


@workflow.defn
class DirectWorkflow:
    """Writes its row by an activity, with Temporal's default retry policy."""

    @workflow.run
    async def run(self, order: CallerInput) -> int:
        """Return the milliseconds from submitting the write to knowing that it was made."""
        await business_step("prepare")
        submitted = workflow.time()
        await workflow.execute_activity(
            "write_directly",
            DirectWrite(workflow_id=workflow.info().workflow_id, item=order.item, cents=order.cents),
            start_to_close_timeout=WRITE_ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=timedelta(seconds=order.write_timeout_s),
        )
        latency_ms = round((workflow.time() - submitted) * 1000)
        await business_step("finish")
        return latency_ms


@workflow.defn
class QueueWorkflow:
    """Writes its row through this library, as users do."""

    @workflow.init
    def __init__(self, order: QueueCallerInput) -> None:
        self._writes = BatchedWrites(
            WriteOptions(
                queue=order.queue,
                batcher_task_queue=order.batcher_task_queue,
                confirm_by=order.confirm_by,
                submit_timeout=timedelta(seconds=order.submit_timeout_s),
                confirm_timeout=timedelta(seconds=order.write_timeout_s),
            )
        )

    @workflow.run
    async def run(self, order: QueueCallerInput) -> int:
        """Return the milliseconds from submitting the write to having its receipt."""
        await business_step("prepare")
        submitted = workflow.time()
        await self._writes.submit(
            TABLE, {"workflow_id": workflow.info().workflow_id, "item": order.item, "cents": order.cents}
        )
        latency_ms = round((workflow.time() - submitted) * 1000)
        await business_step("finish")
        return latency_ms


@workflow.defn
class BaselineWorkflow:
    """The business steps without a write: what a workflow costs before it writes anything."""

    @workflow.run
    async def run(self, _order: CallerInput) -> int:
        """Return 0: there is no write to wait for."""
        await business_step("prepare")
        await business_step("finish")
        return 0
