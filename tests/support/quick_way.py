"""Turning the quick way of writing a batch off, and watching it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from write_batcher.sinks.sql.quick_write import QuickWriter


@contextmanager
def carefully() -> Iterator[None]:
    """Nothing is written the quick way."""

    async def leave(*_: Any, **__: Any) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuickWriter, "write", leave)
        yield


@contextmanager
def quickly() -> Iterator[list[bool]]:
    """Yields whether each batch, or part of one, was written the quick way."""
    written: list[bool] = []
    original = QuickWriter.write

    async def watched(self: QuickWriter, *arguments: Any, **more: Any) -> bool:
        written.append(await original(self, *arguments, **more))
        return written[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuickWriter, "write", watched)
        yield written
