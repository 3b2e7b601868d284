"""Worker processes as children of the demo, the comparison or a test."""

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Self, TypeVar

from write_batcher.config import ENV_PREFIX, Settings, as_environment
from write_batcher.errors import WorkerEnded
from write_batcher.workers.embedded import processes
from write_batcher.workers.embedded.temporal_server import NAMESPACE

LAST_LINES = 20  # of the log of a worker that ended, shown in the error

Record = dict[str, Any]  # one line of a JSON log
T = TypeVar("T")


def environment_of(settings: Settings, temporal_address: str) -> dict[str, str]:
    """Make the environment of a worker process: this one's, but all addresses and settings are as given.

    No Temporal profile is read.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", ENV_PREFIX))}
    return (
        inherited
        | as_environment(settings)
        | {
            "TEMPORAL_ADDRESS": temporal_address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
        }
    )


class WorkerProcess:
    """`write-batcher worker ROLE` as a child process, which runs while the context is open.

    Its log is read line by line, and `on_record` is called with the role and each JSON record. `command` are the
    arguments of Python to run instead.
    """

    def __init__(
        self,
        role: str,
        environment: dict[str, str],
        on_record: Callable[[str, Record], Awaitable[None]],
        *,
        command: Sequence[str] | None = None,
    ) -> None:
        self.role = role
        self._command = command or ("-m", "write_batcher.cli.app", "worker", role)
        self._environment = environment
        self._on_record = on_record
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._killed = False

    async def __aenter__(self) -> Self:
        command = [sys.executable, *self._command]
        self._process = await processes.spawn(command, log=None, environment=self._environment)
        self._reading = asyncio.create_task(self._read(), name=f"log of the {self.role} worker")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await processes.stop(self._process)
        await self._reading

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, SIGTERM to ask it to end."""
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """End the process by SIGKILL, which looks like a crash to everybody else."""
        self._killed = True
        await processes.kill(self._process)

    async def wait(self) -> int:
        """Wait for the process to end, and return its exit status."""
        return await self._process.wait()

    async def wait_for_unexpected_end(self) -> None:
        """Return when the process has ended by itself; never after `kill`."""
        await self.wait()
        if self._killed:
            await asyncio.get_running_loop().create_future()

    def end_report(self) -> str:
        """Say that the process has ended, with its exit status and the last lines of its log."""
        log = "\n".join(self._last_lines) or "(no output)"
        return f"The {self.role} worker ended with status {self._process.returncode}. Its last output:\n{log}"

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - spawned with a pipe
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            try:
                record = json.loads(text)
            except ValueError:  # a traceback from outside the log
                continue
            await self._on_record(self.role, record)


async def while_alive(workers: Sequence[WorkerProcess], work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. Cancels it and raises `WorkerEnded` as soon as one of the workers ends by itself."""
    working = asyncio.create_task(work)
    ended = [asyncio.create_task(worker.wait_for_unexpected_end()) for worker in workers]
    try:
        await asyncio.wait({working, *ended}, return_when=asyncio.FIRST_COMPLETED)
        for worker, task in zip(workers, ended, strict=True):
            if task.done():
                raise WorkerEnded(worker.end_report())
        return await working
    finally:
        working.cancel()
        for task in ended:
            task.cancel()
