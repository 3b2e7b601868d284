"""Worker processes as children of a demo, a comparison or a test."""

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

LAST_LINES = 20  # of the log of a worker that ended, in the error

Record = dict[str, Any]  # of a JSON log
T = TypeVar("T")


def environment_of(settings: Settings, temporal_address: str) -> dict[str, str]:
    """This process's own, except that every address and setting is as given, whatever a profile says."""
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
    """`write-batcher worker ROLE` as a child process whose log is read line by line.

    `command`: what Python runs instead.
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
        """Send it a signal, SIGTERM to ask it to end."""
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """End it by SIGKILL: what a crash of it looks like to everybody else."""
        self._killed = True
        await processes.kill(self._process)

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        return await self._process.wait()

    async def wait_for_defect(self) -> None:
        """Return when it has ended without having been killed."""
        await self.wait()
        if self._killed:
            await asyncio.get_running_loop().create_future()

    def last_words(self) -> str:
        """Why it ended, as far as its log tells."""
        log = "\n".join(self._last_lines) or "(no output)"
        return f"the {self.role} worker ended with status {self._process.returncode}:\n{log}"

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


async def unless_ended(workers: Sequence[WorkerProcess], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises WorkerEnded as soon as one of the workers has ended by itself."""
    working = asyncio.create_task(work)
    ended = [asyncio.create_task(worker.wait_for_defect()) for worker in workers]
    try:
        await asyncio.wait({working, *ended}, return_when=asyncio.FIRST_COMPLETED)
        for worker, task in zip(workers, ended, strict=True):
            if task.done():
                raise WorkerEnded(worker.last_words())
        return await working
    finally:
        working.cancel()
        for task in ended:
            task.cancel()
