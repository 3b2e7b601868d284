"""One contender with its workers on servers of its own: what a scenario puts it through its paces in."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Protocol

from temporalio.client import Client, WorkflowFailureError

from write_batcher import OperationFailed, Settings
from write_batcher.compare.audit import CallerEnd, Rows
from write_batcher.compare.contenders import design_of
from write_batcher.compare.contenders.design import Design, Order
from write_batcher.compare.cpu import cpu_seconds
from write_batcher.compare.database_meter import DatabaseUse
from write_batcher.compare.histories import HistorySize, chain_size, series_size
from write_batcher.compare.servers import Servers
from write_batcher.workers.embedded.starter import START_CONCURRENCY, WAIT_CONCURRENCY, bounded, describe
from write_batcher.workers.embedded.worker_process import Record, WorkerProcess, unless_ended

READY_WITHIN = timedelta(seconds=90)  # both workers, and one write through them
METER_WITHIN = timedelta(seconds=10)


class Progress(Protocol):
    """Where a scenario shows how far it is."""

    def expect(self, total: int) -> None:
        """So many things are to be done from here."""

    def advance(self, number: int = 1) -> None:
        """So many more are done."""


class Arena:
    """Made by `arena`. `series` begins the ids of the callers that count."""

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
        self._told: dict[str, asyncio.Queue[DatabaseUse]] = {role: asyncio.Queue() for role in design.roles}

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

    def rows(self) -> Rows:
        """The rows of the callers that count."""
        return Rows(self.settings.database_url, self.series)

    def orders(self, count: int, *, bad: int = 0) -> list[Order]:
        """For so many callers; the records of `bad` of them, evenly spread, are refused by the database."""
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
        """Start the worker process of a role, also again after it was killed."""
        worker = WorkerProcess(
            role,
            self.servers.environment,
            self._read,
            command=("-m", "write_batcher.compare.worker", self.contender, role),
        )
        self._workers[role] = await self._stack.enter_async_context(worker)

    async def kill_writer(self) -> None:
        """End the process that writes to the database, by SIGKILL."""
        await self._workers[self.design.writer].kill()

    async def warm_up(self) -> None:
        """One write through everything: both workers have connected, and code is loaded. Raises OperationFailed."""
        order = Order(workflow_id=f"warm-up-{self.series}", item="warm-up", cents=1)
        try:
            async with asyncio.timeout(READY_WITHIN.total_seconds()):
                handle = await self.design.start(self.client, self.settings, order)
                await handle.result()
        except (TimeoutError, WorkflowFailureError) as error:
            raise OperationFailed(
                f"{self.contender} did not write its first row within {READY_WITHIN.seconds} s: {error!r}"
            ) from error

    async def run_callers(self, orders: Sequence[Order]) -> list[CallerEnd]:
        """Start all, wait until all have ended."""
        self.progress.expect(len(orders))

        async def run(order: Order) -> CallerEnd:
            try:
                result = await handles[order.workflow_id].result()
            except WorkflowFailureError as error:
                return CallerEnd(order=order, failure=describe(error))
            finally:
                self.progress.advance()
            return CallerEnd(order=order, latency_ms=self.design.latency_ms(result))

        started = await bounded(
            lambda order: self.design.start(self.client, self.settings, order), orders, START_CONCURRENCY
        )
        handles = {handle.id: handle for handle in started}
        return await bounded(run, orders, WAIT_CONCURRENCY)

    async def callers_size(self, count: int) -> HistorySize:
        """The histories of the `count` callers, all of which have ended."""
        return await series_size(self.client, self.series, count)

    async def batcher_size(self) -> HistorySize:
        """The history of the batcher, with those of the runs that it continued; nothing when there is none."""
        return HistorySize() if self.batcher_id is None else await chain_size(self.client, self.batcher_id)

    def server_cpu_s(self) -> float | None:
        """Processor time that Temporal and Redis have used; None when they are not ours."""
        pids = self.servers.server_pids()
        return None if pids is None else cpu_seconds(pids)

    def worker_cpu_s(self) -> float:
        """Processor time that the workers have used."""
        return cpu_seconds(worker.pid for worker in self.workers)

    async def database_use(self) -> DatabaseUse:
        """Of all workers since the last question."""
        total = DatabaseUse()
        async with asyncio.timeout(METER_WITHIN.total_seconds()):
            for role, worker in self._workers.items():
                worker.send(signal.SIGUSR1)
                total = total.plus(await self._told[role].get())
        return total

    def worker_notes(self) -> list[str]:
        """A sentence on the warnings and errors that each worker has logged."""
        return [
            f"the {role} worker logged {len(texts)} warnings and errors, the first: {texts[0]}"
            for role, texts in self._warnings.items()
        ]

    async def _read(self, role: str, record: Record) -> None:
        if use := record.get("database"):
            self._told[role].put_nowait(DatabaseUse(**use))
        elif record.get("level") in ("WARNING", "ERROR", "CRITICAL"):
            self._warnings.setdefault(role, []).append(str(record.get("message", "")))


@asynccontextmanager
async def arena(contender: str, servers: Servers, progress: Progress) -> AsyncIterator[Arena]:
    """The workers of a contender, or of the baseline, ready to write. Raises WorkerEnded and OperationFailed."""
    design = design_of(contender)
    async with AsyncExitStack() as stack:
        one = Arena(design, contender, servers, progress, stack)
        for role in design.roles:
            await one.start_worker(role)
        await unless_ended(one.workers, one.warm_up())
        yield one
