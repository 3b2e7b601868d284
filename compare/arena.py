"""Where a scenario runs: one contender and its workers on the servers of one run."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Protocol

from temporalio.client import Client, WorkflowFailureError

from write_batcher import OperationFailed, Settings
from write_batcher.compare.audit import CallerOutcome, CallerRows
from write_batcher.compare.contenders import design_of
from write_batcher.compare.contenders.design import Design, Order
from write_batcher.compare.cpu import cpu_seconds
from write_batcher.compare.database_meter import DatabaseUse
from write_batcher.compare.histories import HistorySize, size_of_all_runs, size_of_series
from write_batcher.compare.servers import Servers
from write_batcher.workers.embedded.starter import START_CONCURRENCY, WAIT_CONCURRENCY, gather_bounded, root_failure
from write_batcher.workers.embedded.worker_process import Record, WorkerProcess, while_alive

WARM_UP_TIMEOUT = timedelta(seconds=90)  # for the start of all workers and one write through them
DATABASE_USE_TIMEOUT = timedelta(seconds=10)


class Progress(Protocol):
    """Where a scenario reports its progress."""

    def expect(self, total: int) -> None:
        """Announce how many items are to be done from here."""

    def advance(self, number: int = 1) -> None:
        """Report that `number` more items are done."""


class Arena:
    """A contender that is ready to write; made by `arena`.

    `series` is the prefix of the workflow ids of the callers that count: the warm-up and earlier scenarios are left
    out.
    """

    def __init__(
        self, design: Design, contender: str, servers: Servers, progress: Progress, stack: AsyncExitStack
    ) -> None:
        self.design = design
        self.contender = contender
        self.servers = servers
        self.progress = progress
        self.series = f"compare-{secrets.token_hex(4)}-"
        self._stack = stack
        self._workers: dict[str, WorkerProcess] = {}
        self._warnings: dict[str, list[str]] = {}
        self._database_reports: dict[str, asyncio.Queue[DatabaseUse]] = {role: asyncio.Queue() for role in design.roles}

    @property
    def client(self) -> Client:
        return self.servers.client

    @property
    def settings(self) -> Settings:
        return self.servers.settings

    @property
    def workers(self) -> Sequence[WorkerProcess]:
        return list(self._workers.values())

    @property
    def batcher_id(self) -> str | None:
        return self.design.batcher_id(self.settings)

    def rows(self) -> CallerRows:
        """Return access to the rows of the callers that count."""
        return CallerRows(self.settings.database_url, self.series)

    def orders(self, count: int, *, bad: int = 0) -> list[Order]:
        """Return orders for `count` callers. The database refuses `bad` of them, evenly spread."""
        every = count // bad if bad else count + 1
        return [
            Order(
                workflow_id=f"{self.series}{number}",
                item=f"item-{number}",
                cents=-1 if bad and number % every == every // 2 and number < every * bad else 100 + number,
            )
            for number in range(count)
        ]

    async def start_worker(self, role: str) -> None:
        """Start the worker process of `role`, also to replace one that was killed."""
        worker = WorkerProcess(
            role,
            self.servers.environment,
            self._read,
            command=("-m", "write_batcher.compare.worker", self.contender, role),
        )
        self._workers[role] = await self._stack.enter_async_context(worker)

    async def kill_writer(self) -> None:
        """Kill the process that writes to the database by SIGKILL."""
        await self._workers[self.design.writer].kill()

    async def warm_up(self) -> None:
        """Make one write, after which all workers are connected and all code is loaded.

        Raises `OperationFailed` when it is not done within `WARM_UP_TIMEOUT`.
        """
        order = Order(workflow_id=f"warm-up-{self.series}", item="warm-up", cents=1)
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT.total_seconds()):
                handle = await self.design.start(self.client, self.settings, order)
                await handle.result()
        except (TimeoutError, WorkflowFailureError) as error:
            raise OperationFailed(
                f"The contender {self.contender} did not write its first row within {WARM_UP_TIMEOUT.seconds} s: "
                f"{error!r}"
            ) from error

    async def run_callers(self, orders: Sequence[Order]) -> list[CallerOutcome]:
        """Start a caller for each order and wait until all have ended."""
        self.progress.expect(len(orders))

        async def wait(order: Order) -> CallerOutcome:
            try:
                result = await handles[order.workflow_id].result()
            except WorkflowFailureError as error:
                return CallerOutcome(order=order, failure=root_failure(error))
            finally:
                self.progress.advance()
            return CallerOutcome(order=order, latency_ms=self.design.latency_ms(result))

        started = await gather_bounded(
            lambda order: self.design.start(self.client, self.settings, order), orders, START_CONCURRENCY
        )
        handles = {handle.id: handle for handle in started}
        return await gather_bounded(wait, orders, WAIT_CONCURRENCY)

    async def callers_history_size(self, count: int) -> HistorySize:
        """Return the total size of the histories of the `count` callers, all of which have ended."""
        return await size_of_series(self.client, self.series, count)

    async def batcher_history_size(self) -> HistorySize:
        """Return the total size of the histories of all runs of the batcher; zero without a batcher."""
        return HistorySize() if self.batcher_id is None else await size_of_all_runs(self.client, self.batcher_id)

    def server_cpu_s(self) -> float | None:
        """Return the CPU seconds that Temporal and Redis have used; None on existing servers."""
        pids = self.servers.server_pids()
        return None if pids is None else cpu_seconds(pids)

    def worker_cpu_s(self) -> float:
        """Return the CPU seconds that the workers have used."""
        return cpu_seconds(worker.pid for worker in self.workers)

    async def database_use(self) -> DatabaseUse:
        """Return how all workers used the database since the last call."""
        total = DatabaseUse()
        async with asyncio.timeout(DATABASE_USE_TIMEOUT.total_seconds()):
            for role, worker in self._workers.items():
                worker.send(signal.SIGUSR1)
                total = total.plus(await self._database_reports[role].get())
        return total

    def worker_notes(self) -> list[str]:
        """Return a sentence for each worker that logged warnings or errors."""
        return [
            f"the {role} worker logged {len(texts)} warnings and errors, the first: {texts[0]}"
            for role, texts in self._warnings.items()
        ]

    async def _read(self, role: str, record: Record) -> None:
        if use := record.get("database"):
            self._database_reports[role].put_nowait(DatabaseUse(**use))
        elif record.get("level") in ("WARNING", "ERROR", "CRITICAL"):
            self._warnings.setdefault(role, []).append(str(record.get("message", "")))


@asynccontextmanager
async def arena(contender: str, servers: Servers, progress: Progress) -> AsyncIterator[Arena]:
    """Open an arena for a contender or for the baseline: its workers run and have written one row.

    Raises `WorkerEnded` when a worker ends by itself, and `OperationFailed` when the first write is not made in time.
    """
    design = design_of(contender)
    async with AsyncExitStack() as stack:
        opened = Arena(design, contender, servers, progress, stack)
        for role in design.roles:
            await opened.start_worker(role)
        await while_alive(opened.workers, opened.warm_up())
        yield opened
