"""Waiting before another try."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """A wait that doubles after each failure."""

    first: float
    """Seconds after the first failure."""
    longest: float
    """Seconds at most."""

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after the given number of failures, from 1."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 20))

    async def wait(self, failures: int, stopping: asyncio.Event) -> None:
        """Wait after the given number of failures, with jitter, or until `stopping` is set."""
        await wait_between(0.5 * self.delay(failures), self.delay(failures), stopping)


async def wait_between(shortest_s: float, longest_s: float, stopping: asyncio.Event) -> None:
    """Wait for a random time, or until `stopping` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(random.uniform(shortest_s, longest_s)):  # noqa: S311 - not for secrets
            await stopping.wait()
