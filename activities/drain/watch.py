"""Heartbeats that depend on progress: a step that takes too long ends the drain, and with it the heartbeats."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio import activity

from write_batcher.errors import StageStalled

BEAT_EVERY = timedelta(seconds=1)  # the SDK sends one per 80 % of the heartbeat timeout, drops the others


class Watch:
    """The steps that are under way, each with its deadline."""

    def __init__(self) -> None:
        self._deadlines: dict[object, tuple[str, timedelta, float]] = {}

    @contextmanager
    def step(self, name: str, limit: timedelta) -> Iterator[None]:
        """Enclose work that must end within `limit`."""
        token = object()
        deadline = asyncio.get_running_loop().time() + limit.total_seconds()
        self._deadlines[token] = (name, limit, deadline)
        try:
            yield
        finally:
            del self._deadlines[token]

    def check(self) -> None:
        """Check all deadlines. Raises `StageStalled` when a step has passed its limit."""
        now = asyncio.get_running_loop().time()
        for name, limit, deadline in self._deadlines.values():
            if now > deadline:
                raise StageStalled(f"The drain has stalled: {name} has taken longer than {limit.total_seconds():g}s.")

    async def beat(self, details: Callable[[], object]) -> None:
        """Heartbeat until a step stalls. Run it in the task group of the stages: they must end with it."""
        while True:
            self.check()
            activity.heartbeat(details())
            await asyncio.sleep(BEAT_EVERY.total_seconds())
