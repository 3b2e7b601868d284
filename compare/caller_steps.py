"""What the callers of all contenders have in common: business steps around the write, and how their workers run."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

BUSINESS_STEP_S = 0.1  # simulated
STEP_TIMEOUT = timedelta(minutes=1)
STEP_RETRY = RetryPolicy(maximum_attempts=5)
SHUTDOWN_TIMEOUT = timedelta(seconds=30)  # for the activities that are in flight when a worker is told to stop


@activity.defn
async def work(seconds: float) -> None:
    """Simulate work."""
    await asyncio.sleep(seconds)


async def business_step(name: str, *, seconds: float = BUSINESS_STEP_S) -> None:
    """Run one activity `work`, the same in every caller."""
    await workflow.execute_activity(
        work, seconds, start_to_close_timeout=STEP_TIMEOUT, retry_policy=STEP_RETRY, summary=name
    )


def workflow_runner() -> WorkflowRunner:
    """Return the default sandbox, except that it does not reload this package for every workflow."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("write_batcher"))
