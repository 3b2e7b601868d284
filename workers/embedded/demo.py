"""The demo: embedded servers, both workers as child processes, many workflows, and a count of the result."""

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
from write_batcher.models import QueueRef
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.local_stack import Database, local_stack
from write_batcher.workers.embedded.main_writes import count_rows
from write_batcher.workers.embedded.starter import Outcomes, new_series, start_workflows, wait_for
from write_batcher.workers.embedded.worker_process import Record, WorkerProcess, environment_of, while_alive

POLL_S = 0.05
CATCH_UP_WITHIN_S = 10.0  # the log comes through a pipe, and may lag a little

logger = logging.getLogger(__name__)


class DemoView(Protocol):
    """Where the demo shows its progress."""

    def started(self) -> None:
        """Count one more started workflow."""

    def ended(self) -> None:
        """Count one more ended workflow."""

    def batch(self, batch: Record) -> None:
        """Show a batch that was written: `batch_id`, `size`, `flush_reason`, `write_ms`."""

    def warning(self, worker: str, message: str) -> None:
        """Show a warning or an error that a worker process logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo counted."""

    workflows: int
    bad: int
    """Workflows whose record the database refuses."""
    outcomes: Outcomes
    rows: int
    """Rows of these workflows in the database."""
    duplicates: int
    """Rows beyond one per workflow."""
    flush_reasons: Counter[str]
    """Batches by flush reason, from the batcher's log."""
    ui_url: str
    environment: dict[str, str]
    """The variables that make another process use the servers of this demo."""

    @property
    def batches(self) -> int:
        """The number of batches, each one transaction."""
        return self.flush_reasons.total()

    @property
    def ok(self) -> bool:
        """Whether all workflows completed but those with a bad record, and each of them has exactly one row."""
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
    """Run `workflows` workflows, `bad` of them with a bad record, and yield the report.

    The servers and workers stay up while the context is open. Raises `WorkerEnded` when a worker process ends by
    itself, and whatever `local_stack` raises.
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
        outcomes = await while_alive(workers, _run(client, settings, series, workflows, bad, view))
        rows, duplicates = await count_rows(settings.database_url, series)
        await log.catch_up(rows)
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
    await _wait_for_batcher(settings, QueueRef(namespace=client.namespace, name=settings.queue))
    handles = await start_workflows(client, settings, series, workflows, bad=bad, on_started=view.started)
    return await wait_for(handles, on_ended=view.ended)


async def _wait_for_batcher(settings: Settings, queue: QueueRef) -> None:
    # Appends are refused, and tried again, until the batcher has announced the queue's contract.
    async with connect(settings.redis_url) as redis:
        contracts = ContractStore(redis, queue)
        while True:
            with contextlib.suppress(QueueUnavailable):
                if await contracts.read() is not None:
                    return
            await asyncio.sleep(POLL_S)


class _BatchLog:
    """The workers' logs: counts the batches, and shows them and all warnings."""

    def __init__(self, view: DemoView) -> None:
        self._view = view
        self._written = 0
        self._more = asyncio.Condition()
        self.flush_reasons: Counter[str] = Counter()

    async def read(self, worker: str, record: Record) -> None:
        """Take one record of a worker's log."""
        if batch := record.get("batch"):
            self.flush_reasons[batch["flush_reason"]] += 1
            self._written += batch["written"]
            self._view.batch(batch)
            async with self._more:
                self._more.notify_all()
        elif record.get("level") in ("WARNING", "ERROR", "CRITICAL"):
            self._view.warning(worker, record["message"])

    async def catch_up(self, rows: int) -> None:
        """Wait until the log has reported as many written requests as there are rows, or time is up."""
        try:
            async with asyncio.timeout(CATCH_UP_WITHIN_S), self._more:
                await self._more.wait_for(lambda: self._written >= rows)
        except TimeoutError:
            logger.warning(
                "the batcher's log reports %d written requests, the database has %d rows", self._written, rows
            )
