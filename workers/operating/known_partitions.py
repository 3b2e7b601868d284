"""Which partitions a queue has, for whoever operates it."""

from redis.asyncio import Redis

from write_batcher.errors import ConfigurationError, OperationFailed
from write_batcher.models import PartitionRef, QueueRef
from write_batcher.queue.contract import ContractStore


async def partitions_of(redis: Redis, queue: QueueRef, only: int | None = None) -> list[PartitionRef]:
    """Return all partitions of a queue, or the one with the number `only`.

    A queue that has lost its contract has those that still hold data. Raises `OperationFailed` when the queue has never
    been used, `ConfigurationError` when it has no partition `only`, and `QueueUnavailable` when Redis cannot be asked.
    """
    known = await ContractStore(redis, queue).known_partitions()
    if known == 0:
        raise OperationFailed(
            f"Queue {queue.name!r} has never been used in namespace {queue.namespace!r}: start its batcher with "
            f"`write-batcher worker batcher --queue {queue.name}`, or name another queue with --queue, or another "
            "namespace with TEMPORAL_NAMESPACE."
        )
    if only is not None and not 0 <= only < known:
        raise ConfigurationError(f"Queue {queue.name!r} has no partition {only}: choose one from 0 to {known - 1}.")
    return [PartitionRef(queue=queue.name, partition=number) for number in range(known) if only in (None, number)]
