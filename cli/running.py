"""What all commands share: options from settings, running until the end or Ctrl-C, exit statuses."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from write_batcher.cli.console import complain
from write_batcher.errors import OperationFailed, QueueUnavailable, TemporalUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


T = TypeVar("T")


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, with SIGTERM as good as Ctrl-C: contexts are left in order, children end first."""

    from temporalio.service import RPCError

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except RPCError as error:
        raise TemporalUnavailable(f"Temporal stopped answering ({error}): look whether it runs") from error


async def until_interrupted() -> None:
    """Return at Ctrl-C or SIGTERM: then it is the way to end a command, and no failure."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.get_running_loop().create_future()


async def look_again_and_again(
    look: Callable[[], Awaitable[None]],
    *,
    live: Callable[[str | None], "RenderableType"] | None,
    show: Callable[[], None],
    refresh: timedelta,
) -> None:
    """Look for ever, through outages of what is looked at: they are when people look. Then `live` is drawn anew, with
    the problem if there is one; without it `show` tells of each look, and problems are complained of.
    """
    from rich.console import Console
    from rich.live import Live

    drawn = Live(console=Console(highlight=False), auto_refresh=False) if live else None
    with drawn or contextlib.nullcontext():
        while True:
            problem = None
            try:
                await look()
            except (QueueUnavailable, OperationFailed) as error:
                problem = str(error)
            if drawn and live:
                drawn.update(live(problem), refresh=True)
            elif problem:
                complain(problem)
            else:
                show()
            sys.stdout.flush()
            await asyncio.sleep(refresh.total_seconds())
