"""Pushes requests straight at a batcher, without callers, and watches their rows come in."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from write_batcher.compare.arena import Arena
from write_batcher.compare.audit import CallerRows
from write_batcher.compare.contenders.design import Order, PushRefused

POLL_EVERY = timedelta(milliseconds=100)
STALLED_AFTER = timedelta(seconds=30)  # without a new row; longer than the wait before any retry of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What became of the requests."""

    accepted: int
    refused: Counter[str]
    """Refused requests by reason."""


async def push_all(arena: Arena, orders: Sequence[Order], concurrency: int) -> Pushed:
    """Push all orders, by `concurrency` producers, each as fast as it can."""
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


def stalled_note(missing: int) -> str:
    """Return a sentence on accepted requests that have no row."""
    return f"{missing} accepted requests are not in the database: no row came for {STALLED_AFTER.seconds} s"


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` until the context is left, then cancel it. Raises what it raised before that."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


class RowWatch:
    """Polls the number of rows and records when it changed."""

    def __init__(self, arena: Arena, rows: CallerRows) -> None:
        self.points: list[dict[str, float]] = [{"s": 0.0, "rows": 0}]
        self._arena = arena
        self._rows = rows
        self._began = time.monotonic()
        self._last_change = self._began

    @property
    def count(self) -> int:
        return int(self.points[-1]["rows"])

    @property
    def last_s(self) -> float:
        """When the last row was seen, in seconds since the watch was made."""
        return self.points[-1]["s"]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the watch was made."""
        return time.monotonic() - self._began

    async def poll(self) -> None:
        """Poll once."""
        number = await self._rows.count()
        now = time.monotonic()
        if number != self.count:
            self._arena.progress.advance(number - self.count)
            self.points.append({"s": round(now - self._began, 3), "rows": number})
            self._last_change = now

    async def keep_polling(self, *, every: timedelta = POLL_EVERY) -> None:
        """Poll until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(every.total_seconds())

    async def wait_for(self, count: int) -> bool:
        """Poll until there are `count` rows. Return False when none has come for `STALLED_AFTER`."""
        self._last_change = time.monotonic()
        while self.count < count:
            if time.monotonic() - self._last_change > STALLED_AFTER.total_seconds():
                return False
            await asyncio.sleep(POLL_EVERY.total_seconds())
            await self.poll()
        return True
