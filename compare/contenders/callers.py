"""Callers of the contenders that have no batcher; the business steps around the write are MainWorkflow's."""

from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow

from write_batcher.activities.business import BusinessStep, do_business_step
from write_batcher.workflows.main import STEP_RETRY, STEP_TIMEOUT

WRITE_ATTEMPT_TIMEOUT = timedelta(seconds=15)  # as long as an attempt of the queue's enqueue activity may take
BUSINESS_S = 0.1  # as in MainInput


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerInput:
    """What to write. `write_timeout_s` bounds the write with all its retries."""

    item: str
    cents: int
    write_timeout_s: float


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
class BaselineWorkflow:
    """The business steps without a write: what a workflow costs before it writes anything."""

    @workflow.run
    async def run(self, _order: CallerInput) -> int:
        """0: there is no write to wait for."""
        await business_step("prepare")
        await business_step("finish")
        return 0


async def business_step(name: str) -> None:
    """The same as in MainWorkflow."""
    await workflow.execute_activity(
        do_business_step,
        BusinessStep(name=name, seconds=BUSINESS_S),
        start_to_close_timeout=STEP_TIMEOUT,
        retry_policy=STEP_RETRY,
    )
