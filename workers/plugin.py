"""The plugin that lets an existing Temporal worker submit writes: `Worker(..., plugins=[WriteBatching()])`."""

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
    """A worker plugin that registers the activity `enqueue_write`, so that the worker's workflows can use
    `BatchedWrites`.

    `settings` are loaded from WRITE_BATCHER_* unless given. Only `redis_url` and `signing_key` are used: all limits are
    those that the batcher of a queue announces. Redis is connected to by the first write, and disconnected when the
    worker ends.

    Raises `ConfigurationError` when the settings are loaded and one is wrong, and `ValueError` when the Redis URL has
    an option that cannot be set.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or load_settings()
        redis = connect(settings.redis_url)
        key = settings.signing_key
        enqueue = EnqueueActivities(redis, signing_key=key.get_secret_value() if key else None)

        @asynccontextmanager
        async def close_redis() -> AsyncIterator[None]:
            try:
                yield
            finally:
                await redis.aclose()

        super().__init__(
            "write-batcher.WriteBatching",
            activities=[enqueue.enqueue_write],
            workflow_runner=with_passthrough,
            run_context=close_redis,
        )


def with_passthrough(runner: WorkflowRunner | None) -> WorkflowRunner:
    """Return `runner`, or a sandbox, that does not reload this package for every workflow: its workflow code is
    deterministic.
    """
    runner = runner or SandboxedWorkflowRunner()
    if not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    return replace(runner, restrictions=runner.restrictions.with_passthrough_modules("write_batcher"))
