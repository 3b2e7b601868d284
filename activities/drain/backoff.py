"""Waiting before another try."""

import asyncio
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait: `first` after one failure, doubled after each further one, never more than `longest`."""

    first: float
    longest: float

    async def wait(self, failures: int, stopping: asyncio.Event) -> None:
        """Wait, with jitter; `stopping` ends the wait early."""
        delay = min(self.longest, self.first * 2.0 ** min(failures - 1, 20))
        try:
            async with asyncio.timeout(delay * random.uniform(0.5, 1.0)):  # noqa: S311 - not for secrets
                await stopping.wait()
        except TimeoutError:
            pass
