"""How producers learn how many partitions a queue has."""

from redis.asyncio import Redis

from write_batcher.errors import QueueUnavailable
from write_batcher.queue.connections import translated_errors
from write_batcher.queue.stream import WriteQueue


class Partitions:
    """The number of partitions of a queue. The batcher announces it and producers read it, so they cannot disagree."""

    def __init__(self, redis: Redis, queue: str) -> None:
        self._redis = redis
        self._queue = queue
        self.key = f"write-batcher:{queue}:partitions"

    async def announce(self, count: int) -> int:
        """Set the number of partitions; returns the larger of the old and the new, all of which need draining."""
        with translated_errors():
            before = int(await self._redis.get(self.key) or 0)
            if before != count:  # a server that is out of memory refuses to be told even what it knows
                await self._redis.set(self.key, count)
        return max(count, before)

    async def announced_or(self, count: int) -> int:
        """The announced number; announces `count` when there is none (Redis may have lost it)."""
        with translated_errors():
            announced = await self._redis.get(self.key)
            if announced is None:
                await self._redis.set(self.key, count, nx=True)
            return int(announced or await self._redis.get(self.key) or count)

    async def count(self) -> int:
        """The announced number. Raises QueueUnavailable when no batcher has announced one."""
        with translated_errors():
            value = await self._redis.get(self.key)
        if value is None:
            raise QueueUnavailable(
                f"queue {self._queue!r} has no batcher yet: start one with `write-batcher worker batcher`"
            )
        return int(value)

    async def known(self) -> int:
        """The announced number, or more: the partitions of a queue that shrank keep their counters and dead letters.
        0 when the queue has never been used.
        """
        with translated_errors():
            count = int(await self._redis.get(self.key) or 0)
            while await self._redis.exists(*WriteQueue(self._redis, self._queue, count).keys):
                count += 1
        return count
