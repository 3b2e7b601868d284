"""Waiting for what must become true, by looking again and again."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest


async def eventually(check: Callable[[], int | Awaitable[int]], *, within_s: float = 20.0) -> None:
    """Wait until `check` holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + within_s
    while True:
        held = check()
        if inspect.isawaitable(held):
            held = await held
        if held:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"did not become true within {within_s:g}s: {_shown(check)}")
        await asyncio.sleep(0.02)


def _shown(check: Callable[..., object]) -> str:
    return repr(check) if isinstance(check, partial) else inspect.getsource(check).strip()
