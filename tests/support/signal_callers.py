"""What the tests of the signal batcher share: batchers with their worker, and callers of the original demo."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.target_databases import SqliteDatabase
from write_batcher.compare.signal_batcher.batcher_limits import BatcherLimits
from write_batcher.compare.signal_batcher.roles import make_batcher_worker, start_batchers
from write_batcher.compare.signal_batcher.wire import BatcherStats, batcher_id
from write_batcher.config import Settings
from write_batcher.models import Batch, Held, WriteReceipt, WriteRequest
from write_batcher.sinks.protocol import Sink
from write_batcher.sinks.sql.sink import SqlSink

RESULT_TIMEOUT_S = 30
SIGNALS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FourFields:
    """A confirmation with the fields of the original only."""

    status: str
    count: int
    batch_id: str
    batch_size: int


def request(number: int, *, caller: str = "", cents: int = 100, request_id: str = "", **changes: Any) -> dict[str, Any]:
    """Return a request as the original sends it, for the table `orders`."""
    return {
        "workflow_id": caller or f"caller-{number}",
        "data": {"order_id": number, "cents": cents},
        "requesting_workflow": caller,
        "request_id": request_id or f"order-{number:05}",
        "submitted_at": "2026-01-31T12:00:00+00:00",
        "attempt": 1,
        **changes,
    }


@workflow.defn
class OriginalCaller:
    """A caller that knows only the names of the original.

    It sends its requests, waits for `wanted` confirmations and returns all that have come.
    """

    def __init__(self) -> None:
        self.confirmations: list[FourFields] = []

    @workflow.run
    async def run(self, batcher: str, requests: list[dict[str, Any]], wanted: int) -> list[FourFields]:
        for one in requests:
            await workflow.get_external_workflow_handle(batcher).signal("add_write_request", one)
        await workflow.wait_condition(lambda: len(self.confirmations) >= wanted)
        return self.confirmations

    @workflow.signal
    def write_confirmation(self, result: FourFields) -> None:
        self.confirmations.append(result)

    @workflow.query
    def received(self) -> list[FourFields]:
        return self.confirmations


Caller = WorkflowHandle[OriginalCaller, list[FourFields]]


@dataclass
class Batching:
    """Running batchers of a queue, and a worker for callers of the original."""

    client: Client
    settings: Settings

    def batcher(self, number: int = 0) -> WorkflowHandle[Any, None]:
        return self.client.get_workflow_handle(batcher_id(self.settings.queue, number))

    async def signal(self, *requests: Any, number: int = 0) -> None:
        """Send requests concurrently, in no particular order."""
        slots = asyncio.Semaphore(SIGNALS_AT_ONCE)

        async def send(one: Any) -> None:
            async with slots:
                await self.batcher(number).signal("add_write_request", one)

        await asyncio.gather(*map(send, requests))

    async def stats(self, number: int = 0) -> BatcherStats:
        stats: BatcherStats = await self.batcher(number).query("get_stats", result_type=BatcherStats)
        return stats

    async def is_idle(self, number: int = 0) -> bool:
        """Whether nothing is pending. A row is in the database a moment before its batcher knows."""
        return (await self.stats(number)).pending_writes == 0

    async def start_caller(self, name: str, *requests: dict[str, Any], wanted: int = 1) -> Caller:
        """Start a caller `name` that sends these requests and waits for `wanted` confirmations."""
        return await self.client.start_workflow(
            OriginalCaller.run,
            args=[self.batcher().id, list(requests), wanted],
            id=name,
            task_queue=_caller_task_queue(self.settings),
        )

    async def call(self, numbers: Iterable[int], **changes: Any) -> list[Caller]:
        """Start a caller for each number, with one request of that number."""
        names = {number: f"{self.settings.queue}-{number}" for number in numbers}
        return [
            await self.start_caller(name, request(number, caller=name, **changes)) for number, name in names.items()
        ]


async def confirmations_of(callers: Iterable[Caller]) -> list[FourFields]:
    """Wait for the callers and return all their confirmations, in the order of the callers."""
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        results = await asyncio.gather(*(caller.result() for caller in callers))
    return list(itertools.chain.from_iterable(results))


def limits(**changes: Any) -> BatcherLimits:
    """Return limits whose batches close after 0.3 s."""
    return BatcherLimits(**{"max_wait_s": 0.3, **changes})


@asynccontextmanager
async def batching(
    client: Client, settings: Settings, sink: Sink, batcher_limits: BatcherLimits | None = None
) -> AsyncIterator[Batching]:
    """Start the batchers of a queue, and run their worker and one for callers of the original."""
    await start_batchers(client, settings, batcher_limits or limits())
    callers = Worker(
        client,
        task_queue=_caller_task_queue(settings),
        workflows=[OriginalCaller],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with make_batcher_worker(client, settings, sink), callers:
        yield Batching(client, settings)


def _caller_task_queue(settings: Settings) -> str:
    return f"{settings.main_task_queue}-original"


def settings_of(name: str, database: SqliteDatabase, **changes: Any) -> Settings:
    """Return settings for a queue `name` that writes to `orders`."""
    return Settings(
        **{
            "queue": name,
            "main_task_queue": f"{name}-main",
            "batcher_task_queue": f"{name}-batcher",
            "database_url": database.url,
            "tables": ("orders",),
            **changes,
        }
    )


class FailingSink:
    """Writes with `sink`, and counts it. `before` and `after` a write, and before `settling`, a hook may raise."""

    def __init__(
        self,
        sink: SqlSink,
        *,
        before: Callable[[Batch], None] = lambda _: None,
        after: Callable[[Batch], None] = lambda _: None,
        settling: Callable[[WriteRequest], None] = lambda _: None,
    ) -> None:
        self._sink = sink
        self._before = before
        self._after = after
        self._settling = settling
        self.writes = 0

    async def write(self, batch: Batch) -> list[WriteReceipt | Held]:
        self.writes += 1
        self._before(batch)
        answers = await self._sink.write(batch)
        self._after(batch)
        return answers

    async def settle(self, one: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        self._settling(one)
        return await self._sink.settle(one, queue=queue, refused=refused)

    async def close(self) -> None:
        await self._sink.close()
