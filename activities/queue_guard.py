"""A guard against workers of two queues on one task queue."""

from write_batcher.errors import ConfigurationError


def check_queue(queue: str, *, served: str) -> None:
    """Raises ConfigurationError when this worker is asked to work for another queue than its own."""
    if queue != served:
        raise ConfigurationError(
            f"this worker writes queue {served!r} into its database, not {queue!r}: let the workers of each queue have "
            "a task queue of their own (WRITE_BATCHER_BATCHER_TASK_QUEUE)"
        )
