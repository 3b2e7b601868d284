"""Requests without callers, straight at a batcher, and their rows as they come."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from write_batcher.compare.arena import Arena
from write_batcher.compare.audit import Rows
from write_batcher.compare.contenders.design import Order, PushRefused

POLL_EVERY = timedelta(milliseconds=100)
STALLED_AFTER = timedelta(seconds=30)
"""Without a new row, nothing more is expected: longer than any retry of a batch waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What became of the requests, and of those that were refused: how many for which reason."""

    accepted: int
    refused: Counter[str]


async def push_all(arena: Arena, orders: Sequence[Order], concurrency: int) -> Pushed:
    """By `concurrency` producers, each as fast as it can."""
    refused: Counter[str] = Counter()
    left = iter(orders)

    async with arena.design.producer(arena.client, arena.settings) as push:

        async def produce() -> None:
            for order in left:
                try:
                    await push(order)
                except PushRefused as error:
                    refused[str(error)] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(produce())
    return Pushed(accepted=len(orders) - refused.total(), refused=refused)


def stalled(missing: int) -> str:
    """What to say when so many accepted requests have no row."""
    return f"{missing} accepted requests are not in the database, and for {STALLED_AFTER.seconds} s no row came"


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have `work` done until the context is left. Raises what it raised."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


class RowWatch:
    """Looks at the number of rows again and again, and keeps when it changed."""

    def __init__(self, arena: Arena, rows: Rows) -> None:
        self.points: list[dict[str, float]] = [{"s": 0.0, "rows": 0}]
        self._arena = arena
        self._rows = rows
        self._began = time.monotonic()
        self._moved = self._began

    @property
    def count(self) -> int:
        return int(self.points[-1]["rows"])

    @property
    def last_s(self) -> float:
        """When the last row came."""
        return self.points[-1]["s"]

    @property
    def elapsed_s(self) -> float:
        """Since the first look."""
        return time.monotonic() - self._began

    async def look(self) -> None:
        """Once."""
        number = await self._rows.count()
        now = time.monotonic()
        if number != self.count:
            self._arena.progress.advance(number - self.count)
            self.points.append({"s": round(now - self._began, 3), "rows": number})
            self._moved = now

    async def keep_looking(self, *, every: timedelta = POLL_EVERY) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(every.total_seconds())

    async def until(self, wanted: int) -> bool:
        """Look until there are so many; False when no more come."""
        self._moved = time.monotonic()
        while self.count < wanted:
            if time.monotonic() - self._moved > STALLED_AFTER.total_seconds():
                return False
            await asyncio.sleep(POLL_EVERY.total_seconds())
            await self.look()
        return True
