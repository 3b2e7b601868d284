"""A guard against workers of two queues that share a task queue."""

from write_batcher.errors import ConfigurationError


def check_queue(queue: str, *, served: str) -> None:
    """Check that `queue` is the one that this worker serves. Raises `ConfigurationError` when it is not."""
    if queue != served:
        raise ConfigurationError(
            f"This worker writes queue {served!r} into its database, not {queue!r}: give the workers of each queue "
            "their own task queue (WRITE_BATCHER_BATCHER_TASK_QUEUE)."
        )
