"""Gives an existing Temporal worker the caller side: `Worker(..., plugins=[WriteBatching()])`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from temporalio.plugin import SimplePlugin
from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from write_batcher.activities.enqueue import EnqueueActivities
from write_batcher.config import Settings, load_settings
from write_batcher.queue.redis_client import connect


class WriteBatching(SimplePlugin):
    """Registers the activity `enqueue_write`, so that the worker's workflows can use `BatchedWrites`.

    `settings` default to WRITE_BATCHER_* and their defaults; of them the address of Redis, the largest request and
    the largest backlog count here.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or load_settings()
        redis = connect(settings.redis_url)
        enqueue = EnqueueActivities(
            redis, max_backlog=settings.max_backlog, max_request_bytes=settings.max_request_bytes
        )

        @asynccontextmanager
        async def close_redis() -> AsyncIterator[None]:
            try:
                yield
            finally:
                await redis.aclose()

        super().__init__(
            "write-batcher.WriteBatching",
            activities=[enqueue.enqueue_write],
            workflow_runner=passing_through,
            run_context=close_redis,
        )


def passing_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    """The sandbox need not load this package anew for every workflow: its workflow code is deterministic."""
    runner = runner or SandboxedWorkflowRunner()
    if not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    return replace(runner, restrictions=runner.restrictions.with_passthrough_modules("write_batcher"))
