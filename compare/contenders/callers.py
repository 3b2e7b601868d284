"""Callers of this library and of the contenders that have no batcher: the same steps around the write."""

from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow

from write_batcher import BatchedWrites, ConfirmBy, WriteOptions
from write_batcher.compare.caller_steps import business_step

WRITE_ATTEMPT_TIMEOUT = timedelta(seconds=15)  # as long as an attempt of the queue's enqueue activity may take
TABLE = "main_writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerInput:
    """What to write. `write_timeout_s` bounds the write with all its retries."""

    item: str
    cents: int
    write_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCallerInput(CallerInput):
    """What to write, and by which queue."""

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
    """Writes its row by an activity of its own; retried as Temporal does by default."""

    @workflow.run
    async def run(self, order: CallerInput) -> int:
        """Milliseconds from submitting the write to knowing that it was made."""
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
    """Writes its row by this library, as its users do."""

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
        """Milliseconds from submitting the write to having its receipt."""
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
        """0: there is no write to wait for."""
        await business_step("prepare")
        await business_step("finish")
        return 0
