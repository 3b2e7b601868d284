"""What all commands share: running until the end or Ctrl-C, and exit statuses."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from write_batcher.cli.console import print_error
from write_batcher.errors import OperationFailed, QueueUnavailable, TemporalUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


T = TypeVar("T")


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` like `asyncio.run`, where SIGTERM acts like Ctrl-C: contexts are left in order, so children end first.

    Raises `KeyboardInterrupt` when it was interrupted, and `TemporalUnavailable` when Temporal stopped answering.
    """
    from temporalio.service import RPCError

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except RPCError as error:
        raise TemporalUnavailable(f"Temporal stopped answering ({error}): check that it is running.") from error


async def until_interrupted() -> None:
    """Return at Ctrl-C or SIGTERM, for a command that is meant to end this way and has not failed then."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.get_running_loop().create_future()


async def refresh_forever(
    look: Callable[[], Awaitable[None]],
    *,
    live: Callable[[str | None], "RenderableType"] | None,
    show: Callable[[], None],
    refresh: timedelta,
) -> None:
    """Call `look` every `refresh`, also while what it looks at is down: that is when people look.

    After each look, `live` makes a new picture, with the problem if there is one. Without it, `show` prints the result,
    and a problem goes to stderr.
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
                print_error(problem)
            else:
                show()
            sys.stdout.flush()
            await asyncio.sleep(refresh.total_seconds())
