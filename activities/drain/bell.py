"""What the stages of a drain wake each other with."""

import asyncio


class Bell:
    """Wakes everybody who waits. Whoever waits looks first whether there is something to do, and again when woken:
    nothing is lost as long as no `await` lies between the look and the wait.
    """

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake everybody who waits now."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for the next ring, at most for so many seconds."""
        if seconds is not None and seconds <= 0:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await asyncio.wait({waiting}, timeout=seconds)
        finally:
            self._waiting.remove(waiting)
