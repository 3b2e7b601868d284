"""The time of Redis, whose clock stamps the entries."""

import asyncio

from write_batcher.queue.stream import WriteQueue

READ_EVERY_S = 5.0  # a clock that is set is followed within this time


class ServerClock:
    """The clock of Redis, read now and then, and this process's monotonic one in between."""

    def __init__(self, queue: WriteQueue) -> None:
        self._queue = queue
        self._offset_ms = 0
        self._read_at: float | None = None

    def now_ms(self) -> int:
        """Return milliseconds since the epoch; `refresh` must have been called before."""
        return self._offset_ms + round(asyncio.get_running_loop().time() * 1000)

    async def refresh(self, *, always: bool = False) -> None:
        """Read the clock, unless that was done lately. Raises `QueueUnavailable` when Redis cannot be asked."""
        now = asyncio.get_running_loop().time()
        if always or self._read_at is None or now - self._read_at >= READ_EVERY_S:
            server_ms = await self._queue.now_ms()
            self._read_at = asyncio.get_running_loop().time()
            self._offset_ms = server_ms - round(self._read_at * 1000)
