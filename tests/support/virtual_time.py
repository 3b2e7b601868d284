"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do: an hour takes milliseconds,
and every run with the same decisions takes the same course. Only for code that does no real I/O.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
BUSY_AFTER = 100_000
A_DAY_S = 86_400.0


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


def on_virtual_time(test: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Have a test run on virtual time, for a day of it at most."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def work() -> T:
            return await test(*args, **kwargs)

        return run_virtually(work(), within_s=A_DAY_S)

    return run


def now() -> float:
    """The seconds on the clock of the running loop."""
    return asyncio.get_running_loop().time()
