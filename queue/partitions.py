"""The number of partitions of a queue, as the batcher announces it to producers."""

import re
from typing import cast

from redis.asyncio import Redis

from write_batcher.errors import QueueUnavailable
from write_batcher.queue.redis_client import translated_errors
from write_batcher.queue.stream import WriteQueue

MAX_PARTITIONS = 1000  # the limit of the setting `partitions`
_NUMBER = re.compile(rb"[1-9]\d{0,3}")


class Partitions:
    """The number of partitions of a queue, announced by the batcher and read by producers, so that they never disagree.

    Any stored value but 1 to 1000 counts as not announced. Methods raise `QueueUnavailable` when Redis cannot be asked.
    """

    def __init__(self, redis: Redis, queue: str) -> None:
        self._redis = redis
        self._queue = queue
        self.key = f"write-batcher:{queue}:partitions"

    async def announce(self, count: int) -> int:
        """Set the number of partitions. Returns the larger of the old and the new number: all of them need draining."""
        with translated_errors():
            before = _announced(await self._stored()) or 0
            if before != count:  # a server that is out of memory refuses every SET, even of the same value
                await self._redis.set(self.key, count)
        return max(count, before)

    async def announced_or(self, count: int) -> int:
        """Return the announced number; announce `count` when there is none, because Redis lost or garbled it."""
        with translated_errors():
            value = await self._stored()
            if _announced(value) is None:
                await self._redis.set(self.key, count, nx=value is None)
                value = await self._stored()
            return _announced(value) or count

    async def count(self) -> int:
        """Return the announced number. Raises `QueueUnavailable` also when no batcher has announced one."""
        with translated_errors():
            value = await self._stored()
        if value is None:
            raise QueueUnavailable(
                f"Queue {self._queue!r} has no batcher yet: start one with `write-batcher worker batcher`."
            )
        count = _announced(value)
        if count is None:
            raise QueueUnavailable(
                f"Redis key {self.key} holds {value[:80]!r} instead of 1 to {MAX_PARTITIONS} partitions: "
                "start a batcher with `write-batcher worker batcher`, which corrects it."
            )
        return count

    async def known(self) -> int:
        """Return the announced number plus the partitions beyond it that still hold data: when a queue shrinks, their
        counters and dead letters stay. 0 when the queue has never been used.
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
