"""How producers learn how many partitions a queue has."""

import re
from typing import cast

from redis.asyncio import Redis

from write_batcher.errors import QueueUnavailable
from write_batcher.queue.redis_client import translated_errors
from write_batcher.queue.stream import WriteQueue

MAX_PARTITIONS = 1000  # that the setting allows
_NUMBER = re.compile(rb"[1-9]\d{0,3}")


class Partitions:
    """The number of partitions of a queue. The batcher announces it and producers read it, so they cannot disagree.
    Anything that is no such number counts as not announced.
    """

    def __init__(self, redis: Redis, queue: str) -> None:
        self._redis = redis
        self._queue = queue
        self.key = f"write-batcher:{queue}:partitions"

    async def announce(self, count: int) -> int:
        """Set the number of partitions; returns the larger of the old and the new, all of which need draining."""
        with translated_errors():
            before = _announced(await self._stored()) or 0
            if before != count:  # a server that is out of memory refuses to be told even what it knows
                await self._redis.set(self.key, count)
        return max(count, before)

    async def announced_or(self, count: int) -> int:
        """The announced number; announces `count` when there is none (Redis may have lost or garbled it)."""
        with translated_errors():
            value = await self._stored()
            if _announced(value) is None:
                await self._redis.set(self.key, count, nx=value is None)
                value = await self._stored()
            return _announced(value) or count

    async def count(self) -> int:
        """The announced number. Raises QueueUnavailable when no batcher has announced one."""
        with translated_errors():
            value = await self._stored()
        if value is None:
            raise QueueUnavailable(
                f"queue {self._queue!r} has no batcher yet: start one with `write-batcher worker batcher`"
            )
        count = _announced(value)
        if count is None:
            raise QueueUnavailable(
                f"{self.key} holds {value[:80]!r} instead of 1 to {MAX_PARTITIONS} partitions: "
                "a running batcher sets it right, start one with `write-batcher worker batcher`"
            )
        return count

    async def known(self) -> int:
        """The announced number, or more: the partitions of a queue that shrank keep their counters and dead letters.
        0 when the queue has never been used.
        """
        with translated_errors():
            count = _announced(await self._stored()) or 0
            while await self._redis.exists(*WriteQueue(self._redis, self._queue, count).keys):
                count += 1
        return count

    async def _stored(self) -> bytes | None:
        return cast(bytes | None, await self._redis.get(self.key))


def _announced(value: bytes | None) -> int | None:
    if value is None or not _NUMBER.fullmatch(value) or int(value) > MAX_PARTITIONS:
        return None
    return int(value)
