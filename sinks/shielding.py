"""Work that a cancellation must not interrupt."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


async def shielded(work: Coroutine[Any, Any, T], *, within: timedelta | None = None, name: str | None = None) -> T:
    """Run `work` to its end even when cancelled meanwhile, and raise the cancellation only then.

    Work that is not done `within` that time after the cancellation is cancelled too; None waits without a limit. `name`
    is that of its task.
    """
    task = asyncio.create_task(work, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=within.total_seconds() if within else None)
        task.cancel()
        raise
