"""The demo: embedded servers, both workers as child processes, many workflows, and a count of what came of it."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from temporalio.client import Client

from write_batcher.config import ENV_PREFIX, Settings, as_environment
from write_batcher.errors import QueueUnavailable, WorkerEnded
from write_batcher.queue.connections import connect
from write_batcher.queue.partitions import Partitions
from write_batcher.workers import processes
from write_batcher.workers.local import NAMESPACE, Database, LocalStack, local_stack
from write_batcher.workers.main_writes import count_rows
from write_batcher.workers.starter import Outcomes, new_series, start_workflows, wait_for

LAST_LINES = 20  # of the log of a worker that ended, in the error
POLL_S = 0.05
CATCH_UP_WITHIN_S = 10.0  # the log comes through a pipe, and may be a moment behind

logger = logging.getLogger(__name__)

Record = dict[str, Any]  # of a JSON log


class DemoView(Protocol):
    """Where the demo shows what happens while it happens."""

    def started(self) -> None:
        """One more workflow has been started."""

    def ended(self) -> None:
        """One more workflow has ended."""

    def batch(self, batch: Record) -> None:
        """A batch was written: `batch_id`, `size`, `flush_reason`, `write_ms`."""

    def warning(self, worker: str, message: str) -> None:
        """A worker process logged a warning or an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo counted: `rows` and `duplicates` in the database, batches in the log of the batcher."""

    workflows: int
    bad: int
    outcomes: Outcomes
    rows: int
    duplicates: int
    flush_reasons: Counter[str]
    ui_url: str
    environment: dict[str, str]
    """What points another process to the servers of this demo."""

    @property
    def batches(self) -> int:
        """Each was one transaction."""
        return self.flush_reasons.total()

    @property
    def ok(self) -> bool:
        """Every workflow completed, but those with a bad record, and the rows of the others are there once."""
        good = self.workflows - self.bad
        return self.outcomes.completed == good and self.rows == good and self.duplicates == 0


@asynccontextmanager
async def demo(
    settings: Settings,
    workflows: int,
    view: DemoView,
    *,
    bad: int = 0,
    database: Database = "sqlite",
    data_dir: Path | None = None,
) -> AsyncIterator[DemoReport]:
    """Run the demo and yield its report; servers and workers stay up for as long as the context is open.

    Raises WorkerEnded, and what `local_stack` raises.
    """
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(local_stack(data_dir=data_dir, database=database))
        settings = settings.model_copy(
            update={"redis_url": servers.redis_url, "database_url": servers.database_url, "log_format": "json"}
        )
        environment = _environment(servers, settings)
        log = _BatchLog(view)
        workers = [
            await stack.enter_async_context(WorkerProcess(role, environment, log.read)) for role in ("main", "batcher")
        ]
        client = await Client.connect(servers.temporal_address)
        series = new_series()
        outcomes = await _unless_ended(workers, _run(client, settings, series, workflows, bad, view))
        rows, duplicates = await count_rows(settings.database_url, series)
        await log.caught_up(rows)
        yield DemoReport(
            workflows=workflows,
            bad=bad,
            outcomes=outcomes,
            rows=rows,
            duplicates=duplicates,
            flush_reasons=log.flush_reasons,
            ui_url=servers.ui_url,
            environment=servers.environment(),
        )


async def _run(client: Client, settings: Settings, series: str, workflows: int, bad: int, view: DemoView) -> Outcomes:
    await _batcher_ready(settings)
    handles = await start_workflows(client, settings, series, workflows, bad=bad, on_started=view.started)
    return await wait_for(handles, on_ended=view.ended)


async def _batcher_ready(settings: Settings) -> None:
    """Return when the batcher has announced its partitions; appends before that fail, and are tried again."""
    async with connect(settings.redis_url) as redis:
        partitions = Partitions(redis, settings.queue)
        while True:
            with contextlib.suppress(QueueUnavailable):
                await partitions.count()
                return
            await asyncio.sleep(POLL_S)


async def _unless_ended(workers: list["WorkerProcess"], work: Coroutine[Any, Any, Outcomes]) -> Outcomes:
    """The result of `work`. Raises WorkerEnded as soon as one of the workers has ended."""
    working = asyncio.create_task(work)
    ended = [asyncio.create_task(worker.wait()) for worker in workers]
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


def _environment(servers: LocalStack, settings: Settings) -> dict[str, str]:
    """This process's own, except that every address and setting is the demo's, whatever a profile says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", ENV_PREFIX))}
    return (
        inherited
        | as_environment(settings)
        | {
            "TEMPORAL_ADDRESS": servers.temporal_address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
        }
    )


class WorkerProcess:
    """`write-batcher worker ROLE` as a child process whose log is read line by line."""

    def __init__(
        self, role: str, environment: dict[str, str], on_record: Callable[[str, Record], Awaitable[None]]
    ) -> None:
        self.role = role
        self._environment = environment
        self._on_record = on_record
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "write_batcher.cli", "worker", self.role]
        self._process = await processes.spawn(command, log=None, environment=self._environment)
        self._reading = asyncio.create_task(self._read(), name=f"log of the {self.role} worker")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await processes.stop(self._process)
        await self._reading

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        os.kill(self._process.pid, signal.SIGTERM)

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        return await self._process.wait()

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


class _BatchLog:
    """Counts batches from the batcher's log, and passes on what a person wants to see."""

    def __init__(self, view: DemoView) -> None:
        self._view = view
        self._written = 0
        self._more = asyncio.Condition()
        self.flush_reasons: Counter[str] = Counter()

    async def read(self, worker: str, record: Record) -> None:
        """One record of a worker's log."""
        if batch := record.get("batch"):
            self.flush_reasons[batch["flush_reason"]] += 1
            self._written += batch["written"]
            self._view.batch(batch)
            async with self._more:
                self._more.notify_all()
        elif record.get("level") in ("WARNING", "ERROR", "CRITICAL"):
            self._view.warning(worker, record["message"])

    async def caught_up(self, rows: int) -> None:
        """Wait, not for ever, until the log tells of as many written requests as there are rows."""
        try:
            async with asyncio.timeout(CATCH_UP_WITHIN_S), self._more:
                await self._more.wait_for(lambda: self._written >= rows)
        except TimeoutError:
            logger.warning("the batcher's log tells of %d written requests, the database of %d", self._written, rows)
