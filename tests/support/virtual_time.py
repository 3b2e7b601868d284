"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do: an hour takes milliseconds,
and every run with the same decisions takes the same course. Only for code that does no real I/O.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
BUSY_AFTER = 100_000


class _JumpingSelector(selectors.SelectSelector):
    """Does not wait: it adds what it was to wait to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self._rounds = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("Every task waits for another one: nothing will ever happen again.")
        self._rounds = 0 if timeout > 0 else self._rounds + 1
        if self._rounds > BUSY_AFTER:
            raise RuntimeError(
                f"The loop has gone round {BUSY_AFTER} times, and no time has passed: it is busy for ever."
            )
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_virtually(work: Coroutine[Any, Any, T], *, within_s: float) -> T:
    """Run `work` on a loop of its own, within so many seconds of its clock."""

    async def limited() -> T:
        async with asyncio.timeout(within_s):
            return await work

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(limited())
