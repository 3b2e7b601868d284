"""Running a worker until it is told to end."""

import asyncio
import signal
from datetime import timedelta

from temporalio.worker import Worker

GRACE = timedelta(seconds=30)  # longer than a drain takes to stop: STOP_WITHIN, and GIVE_UP_WITHIN of a hung write


async def serve(worker: Worker) -> None:
    """Run `worker` until SIGTERM or SIGINT, then let its activities finish within their grace."""
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
