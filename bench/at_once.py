"""A fixed number of tasks that share a list of work."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def work_off(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, tasks: int) -> None:
    """Do `work` for every item, `tasks` of them at a time. When one fails, the others are cancelled."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(tasks)]
    try:
        await asyncio.gather(*workers)  # raises the first error as it is, which a task group would wrap
    finally:
        for one in workers:
            one.cancel()
        await asyncio.wait(workers)
