"""Heartbeats that are tied to progress: a step past its limit ends the drain, and with it the heartbeats."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio import activity

from write_batcher.errors import StageStalled

BEAT_EVERY = timedelta(seconds=1)  # the SDK sends one in 80 % of the heartbeat timeout and drops the others


class Watch:
    """Knows the steps that are under way and how long each may take."""

    def __init__(self) -> None:
        self._deadlines: dict[object, tuple[str, timedelta, float]] = {}

    @contextmanager
    def step(self, name: str, limit: timedelta) -> Iterator[None]:
        """Work that must end within `limit`."""
        token = object()
        deadline = asyncio.get_running_loop().time() + limit.total_seconds()
        self._deadlines[token] = (name, limit, deadline)
        try:
            yield
        finally:
            del self._deadlines[token]

    def check(self) -> None:
        """Raises StageStalled when a step has passed its limit."""
        now = asyncio.get_running_loop().time()
        for name, limit, deadline in self._deadlines.values():
            if now > deadline:
                raise StageStalled(f"{name} has taken longer than {limit.total_seconds():g}s")

    async def beat(self, details: Callable[[], object]) -> None:
        """Heartbeat for ever, while no step stalls. Run it as a sibling of the stages: its death must end them."""
        while True:
            self.check()
            activity.heartbeat(details())
            await asyncio.sleep(BEAT_EVERY.total_seconds())
