"""The work that every caller does before and after its write, and how the worker processes of contenders run."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

BUSINESS_S = 0.1  # simulated work of one step
STEP_TIMEOUT = timedelta(minutes=1)
STEP_RETRY = RetryPolicy(maximum_attempts=5)
GRACE = timedelta(seconds=30)  # of a worker that is told to end, for what its activities have in flight


@activity.defn
async def work(seconds: float) -> None:
    """Simulated work."""
    await asyncio.sleep(seconds)


async def business_step(name: str, *, seconds: float = BUSINESS_S) -> None:
    """One activity `work`, the same in every caller."""
    await workflow.execute_activity(
        work, seconds, start_to_close_timeout=STEP_TIMEOUT, retry_policy=STEP_RETRY, summary=name
    )


def workflow_runner() -> WorkflowRunner:
    """The sandbox as users have it, but that it need not load this package anew for every workflow."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("write_batcher"))
