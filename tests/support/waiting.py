"""Waiting for what must become true, by polling."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest


async def eventually(check: Callable[[], int | Awaitable[int]], *, within_s: float = 20.0) -> None:
    """Wait until `check` is true; fail the test when it is not within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        result = check()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"did not become true within {within_s:g}s: {_source_of(check)}")
        await asyncio.sleep(0.02)


def _source_of(check: Callable[..., object]) -> str:
    return repr(check) if isinstance(check, partial) else inspect.getsource(check).strip()
