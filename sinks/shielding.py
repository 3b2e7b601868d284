"""Work that a cancellation must not break off in the middle."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


async def shielded(work: Coroutine[Any, Any, T], *, within: timedelta | None = None, name: str | None = None) -> T:
    """Await `work` to its end even if cancelled meanwhile, and only then be cancelled. What hangs is given up `within`
    that time from the cancellation; None: never.
    """
    task = asyncio.create_task(work, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=within.total_seconds() if within else None)
        task.cancel()
        raise
