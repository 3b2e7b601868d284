"""A server as a child process that listens on this machine only."""

import asyncio
import contextlib
import importlib.metadata
import logging
import shlex
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

from write_batcher.errors import ConfigurationError, ServerNotStarted
from write_batcher.workers.embedded import processes

HOST = "127.0.0.1"  # a dev server has no access control, so other machines must not reach it
START_DEADLINE = timedelta(seconds=60)  # a dev server answers within a second; a loaded CI machine is far slower
START_TRIES = 3  # another program may take a free port before the server binds it
POLL_S = 0.02
ANSWER_TIMEOUT = timedelta(seconds=1)  # of one readiness request; the next one follows at once
OUTPUT_LINES = 20  # of a failed server's output, shown in the error

logger = logging.getLogger(__name__)


class Server(ABC):
    """A server as a child process that can be stopped or killed, and started again on the same ports and data."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self, folder: Path, *, ports: Mapping[str, int | None], extra: Sequence[str], user: str | None = None
    ) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / f"{self.name.lower()}.log"
        self._given_ports = ports
        self._ports: dict[str, int] = {}
        self._extra = extra
        self._user = user
        self._command: list[str] = []
        self._log_size = 0  # before the latest start
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id; of the latest start if the server has ended. Raises `RuntimeError` before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} has no process yet: call start() first.")
        return self._process.pid

    @property
    def port(self) -> int:
        return self._port(self.name)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the server, and return when it answers. Ports that were not given are chosen once, and kept.

        Raises `ConfigurationError` when a given port is taken or this machine has no such server, `ServerNotStarted`
        when the server ends or does not answer within a minute, and `RuntimeError` when it is running already.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running already (process {self.pid}): call stop() first.")
        self.check_ports()
        self.folder.mkdir(parents=True, exist_ok=True)
        program = await self._program()
        await self._prepare(Path(program))
        started = time.monotonic()
        try:
            async with asyncio.timeout(START_DEADLINE.total_seconds()):
                for _ in range(START_TRIES):
                    self._ports = choose_ports(self._given_ports)
                    if await self._start_once([str(program), *self._arguments()]):
                        break
                else:
                    raise ServerNotStarted(self._failure("ended while starting"))
        except TimeoutError as error:
            raise ServerNotStarted(self._failure(f"did not answer within {START_DEADLINE.seconds} s")) from error
        self._given_ports = self._ports
        elapsed_ms = (time.monotonic() - started) * 1000
        logger.info("%s answers on %s:%s after %.0f ms, process %s", self.name, HOST, self.port, elapsed_ms, self.pid)

    async def stop(self) -> None:
        """End the server by its stop signal, after the grace period by SIGKILL. Does nothing when it is not running."""
        if self._process is not None:
            await processes.stop(self._process, by=self.stop_signal)

    async def kill(self) -> None:
        """End the server by SIGKILL, which looks like a crash to its clients."""
        if self._process is not None:
            await processes.kill(self._process)

    def check_ports(self) -> None:
        """Raise `ConfigurationError` when a given port, or one kept for the next start, is taken."""
        for role, port in self._given_ports.items():
            if port is None:
                continue
            try:
                bind(port).close()
            except OSError as error:
                raise ConfigurationError(
                    f"Port {port} of {HOST} cannot be used for {role} ({error.strerror}): "
                    "stop the program that listens there, or choose another port."
                ) from error

    @abstractmethod
    async def _program(self) -> str | Path:
        """Return the absolute path of the server's program. Raises `ConfigurationError` when there is none."""

    async def _prepare(self, program: Path) -> None:  # noqa: B027 - most servers need nothing
        """Create what the server needs before its first start."""

    @abstractmethod
    def _arguments(self) -> list[str]: ...

    @abstractmethod
    async def _answers(self) -> bool: ...

    def _port(self, role: str) -> int:
        if role not in self._ports:
            raise RuntimeError(f"{self.name} has no port yet: call start() first.")
        return self._ports[role]

    async def _start_once(self, command: list[str]) -> bool:
        self._process = await self._spawn(command)
        try:
            while self.running:
                if await self._answers():
                    return True
                await asyncio.sleep(POLL_S)
        except BaseException:
            await self.kill()
            raise
        return False

    async def _spawn(self, command: list[str]) -> asyncio.subprocess.Process:
        self._command = command
        self._log_size = self.log.stat().st_size if self.log.exists() else 0
        return await processes.spawn(command, log=self.log, user=self._user)

    async def _run(self, command: list[str]) -> int:
        """Run a program that prepares something, and return its exit status; its output goes to the log."""
        process = await self._spawn(command)
        try:
            async with asyncio.timeout(START_DEADLINE.total_seconds()):
                return await process.wait()
        except TimeoutError as error:
            raise ServerNotStarted(self._failure(f"was not prepared within {START_DEADLINE.seconds} s")) from error
        finally:
            await processes.kill(process)

    def _failure(self, problem: str) -> str:
        output = self.log.read_bytes()[self._log_size :].decode(errors="replace")
        last_lines = "\n".join(output.splitlines()[-OUTPUT_LINES:])
        return (
            f"{self.name} {problem}. Its last output:\n{last_lines or '(none)'}\n"
            f"Fix what it names, or start it by hand to see more:\n{shlex.join(self._command)}"
        )


def bundled_programs(distribution: str, program: str) -> list[Path]:
    """Return all programs of that name in an installed distribution; they need not be on the PATH."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve() for file in files if file.name == program]


def bundled(distribution: str, program: str) -> Path | None:
    """Return the program of that name in an installed distribution, or None."""
    return next(iter(bundled_programs(distribution, program)), None)


def choose_ports(given: Mapping[str, int | None]) -> dict[str, int]:
    """Return `given`, with a free port in place of each None."""
    # All sockets are open at once, so that no port is chosen twice.
    with contextlib.ExitStack() as opened:
        return {
            role: opened.enter_context(bind(0)).getsockname()[1] if port is None else port
            for role, port in given.items()
        }


def bind(port: int) -> socket.socket:
    """Bind a socket to `port` of this machine, 0 for a free one. Raises `OSError` when the port is taken."""
    listener = socket.socket()
    try:
        # As servers do: then a port is taken by a listener, but not by an earlier server's connections in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return listener
