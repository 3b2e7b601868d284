"""The demo: embedded servers, both workers as child processes, many workflows, and a count of what came of it."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from temporalio.client import Client

from write_batcher.config import Settings
from write_batcher.errors import QueueUnavailable
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.local_stack import Database, local_stack
from write_batcher.workers.embedded.main_writes import count_rows
from write_batcher.workers.embedded.starter import Outcomes, new_series, start_workflows, wait_for
from write_batcher.workers.embedded.worker_process import Record, WorkerProcess, environment_of, unless_ended

POLL_S = 0.05
CATCH_UP_WITHIN_S = 10.0  # the log comes through a pipe, and may be a moment behind

logger = logging.getLogger(__name__)


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
        environment = environment_of(settings, servers.temporal_address)
        log = _BatchLog(view)
        workers = [
            await stack.enter_async_context(WorkerProcess(role, environment, log.read)) for role in ("main", "batcher")
        ]
        client = await Client.connect(servers.temporal_address)
        series = new_series()
        outcomes = await unless_ended(workers, _run(client, settings, series, workflows, bad, view))
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
    await batcher_ready(settings)
    handles = await start_workflows(client, settings, series, workflows, bad=bad, on_started=view.started)
    return await wait_for(handles, on_ended=view.ended)


async def batcher_ready(settings: Settings) -> None:
    """Return when the batcher has announced its partitions; appends before that fail, and are tried again."""
    async with connect(settings.redis_url) as redis:
        partitions = Partitions(redis, settings.queue)
        while True:
            with contextlib.suppress(QueueUnavailable):
                await partitions.count()
                return
            await asyncio.sleep(POLL_S)


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
