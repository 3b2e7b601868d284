"""Running a worker until the process is told to end, and ending it in time, whatever does not answer then."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.worker import Worker

# A process has 30 s from SIGTERM to SIGKILL in Kubernetes. Together with those below, these stay within 25 s.
SHUTDOWN_GRACE = timedelta(seconds=18)  # of activities; above what a drain needs, STOP_WITHIN and what follows it
SHUTDOWN_WITHIN = timedelta(seconds=19)  # of a worker, whose last calls a frozen Temporal does not answer
CLOSE_WITHIN = timedelta(seconds=1)  # of each connection

OBJECTS_PER_COLLECTION = 20_000

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def serve(worker: Worker, *, beside: Coroutine[Any, Any, None] | None = None) -> None:
    """Run `worker` until SIGTERM or SIGINT, then shut it down.

    Its activities have the worker's `graceful_shutdown_timeout` to finish. A worker that is not shut down after 19
    seconds, because Temporal does not answer, is left as it is: what it did not finish is done by another worker.

    `beside` runs as long as the worker does, and is cancelled after its shutdown. Must be called in the main thread,
    the only one that may handle signals. Raises whatever ends the worker or `beside` before a signal does.
    """
    spare_garbage_collector()
    running = asyncio.create_task(worker.run(), name="worker")
    others = [asyncio.create_task(beside, name="beside the worker")] if beside else []
    async with _signalled() as told_to_end:
        waiting = asyncio.create_task(told_to_end.wait())
        logger.info("worker serves task queue %s", worker.task_queue)
        try:
            await asyncio.wait({running, waiting, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _shut_down(worker, running)
            for task in (waiting, *others):
                task.cancel()
    await asyncio.wait({running, waiting, *others}, timeout=CLOSE_WITHIN.total_seconds())
    for task in (running, *others):
        if task.done() and not task.cancelled():
            task.result()


def spare_garbage_collector() -> None:
    """Have Python look for garbage less often, and only among what is made from now on: a batcher makes thousands of
    objects for each batch, and what it has loaded lives as long as its process.
    """
    if not gc.get_freeze_count():  # else what is garbage by now would stay, too
        gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION)


@asynccontextmanager
async def _signalled() -> AsyncIterator[asyncio.Event]:
    """What is set by the first SIGTERM or SIGINT. Another one that comes later, while connections close, kills."""
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told_to_end.set)
    try:
        yield told_to_end
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _shut_down(worker: Worker, running: asyncio.Task[None]) -> None:
    try:
        async with asyncio.timeout(SHUTDOWN_WITHIN.total_seconds()):
            await worker.shutdown()
    except TimeoutError:
        logger.warning(
            "worker is not shut down after %g s: Temporal does not answer, or an activity does not end; what is "
            "unfinished is left to the next worker",
            SHUTDOWN_WITHIN.total_seconds(),
        )
        running.cancel()


@asynccontextmanager
async def closed_in_time(what: str, opened: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter the context `opened`, a connection. At the end its closing is given up after a second, or when it fails."""
    connection = await opened.__aenter__()
    try:
        yield connection
    finally:
        try:
            async with asyncio.timeout(CLOSE_WITHIN.total_seconds()):
                await opened.__aexit__(None, None, None)
        except TimeoutError:
            logger.warning("%s is not closed after %g s", what, CLOSE_WITHIN.total_seconds())
        except Exception:  # whatever a driver raises then
            logger.warning("%s could not be closed", what, exc_info=True)
