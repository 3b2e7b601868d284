"""What a drain does while its target is away: it waits, and tries with a small batch when no other drain does."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from write_batcher.activities.drain.backoff import Backoff, wait_between
from write_batcher.errors import QueueUnavailable
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.target_state import TargetState

BACKOFF = Backoff(0.2, 15.0)
PROBE_SIZE = 10  # requests
PROBE_LEASE = timedelta(seconds=10)  # of a drain that has died; renewed three times as often by one that lives
BACK_FOR = timedelta(seconds=20)  # longer than any drain goes without asking
ASK_EVERY_S = (0.2, 1.0)  # at random, so that not all start again at once

logger = logging.getLogger(__name__)


class Outage:
    """One drain's part in an outage. The drains of a queue tell each other through Redis; when that is away as well,
    each goes by itself.
    """

    def __init__(self, queue: WriteQueue, stopping: asyncio.Event) -> None:
        self._queue = queue
        self._stopping = stopping
        self.failures = 0
        """Tries in a row that failed."""

    def limit(self, size: int) -> int:
        """Return how many of so many requests may be written at once: few in the first try after an outage."""
        return min(size, PROBE_SIZE) if self.failures else size

    async def wait(self) -> bool:
        """Note that the target is away, and wait for the next try. Returns False when the drain is stopped."""
        self.failures += 1
        if not self._stopping.is_set():
            await self._tell(TargetState.AWAY, timedelta(seconds=BACKOFF.delay(self.failures)))
            await BACKOFF.wait(self.failures, self._stopping)
        while not self._stopping.is_set():
            if await self._may_try():
                return True
            await wait_between(*ASK_EVERY_S, self._stopping)
        return False

    @asynccontextmanager
    async def trying(self) -> AsyncIterator[None]:
        """Enclose a try. While there is an outage, no other drain tries meanwhile."""
        if not self.failures:
            yield
            return
        renewing = asyncio.create_task(self._renew(), name="probe")
        try:
            yield
        finally:
            renewing.cancel()

    async def over(self) -> None:
        """Note that the target has answered."""
        if self.failures:
            self.failures = 0
            await self._tell(TargetState.BACK, BACK_FOR)

    async def _may_try(self) -> bool:
        try:
            return await self._queue.may_probe(PROBE_LEASE)
        except QueueUnavailable:
            return True

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(PROBE_LEASE.total_seconds() / 3)
            await self._tell(TargetState.PROBING, PROBE_LEASE)

    async def _tell(self, state: TargetState, holds_for: timedelta) -> None:
        try:
            await self._queue.note_target(state, holds_for)
        except QueueUnavailable as error:
            logger.debug(
                "%s cannot tell the others that its target is %s: %s", self._queue.stream_key, state.value, error
            )
