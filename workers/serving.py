"""Running a worker until the process is told to end."""

import asyncio
import signal
from datetime import timedelta

from temporalio.worker import Worker

SHUTDOWN_GRACE = timedelta(seconds=30)  # must be above what a drain needs to stop: STOP_WITHIN + GIVE_UP_WITHIN


async def serve(worker: Worker) -> None:
    """Run `worker` until SIGTERM or SIGINT, then shut it down.

    Its activities have the worker's `graceful_shutdown_timeout` to finish. Must be called in the main thread, the only
    one that may handle signals. Raises whatever ends the worker before a signal does.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    running = asyncio.create_task(worker.run(), name="worker")
    waiting = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        await worker.shutdown()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    await running
