"""A queue with one partition, its batcher, and an operator who looks at it and steers it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from temporalio.client import Client
from temporalio.worker import Worker

from tests.support.command import run_command
from tests.support.fakes import MemorySink
from write_batcher.activities.drain.activity import DrainActivities
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Batch, Outcome, PartitionRef, WriteReceipt, WriteRequest
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec, Fields
from write_batcher.sinks.protocol import Sink
from write_batcher.workers.operating.dead_letter_repair import Letter, QueueLetters
from write_batcher.workers.operating.dead_letter_selection import LetterId, Selection
from write_batcher.workers.operating.host import HostState
from write_batcher.workers.operating.monitor import Monitor, PartitionView
from write_batcher.workers.plugin import with_passthrough
from write_batcher.workflows.batcher import BatcherInput, BatcherWorkflow, batcher_workflow_id

QUICK = timedelta(milliseconds=100)
MAX_WAIT = timedelta(milliseconds=50)
WITHIN_S = 20
ALL = Selection()


class OperatorSink(MemorySink):
    """A sink that rejects requests whose id begins with `bad`, until `repair`, and can forget a rejection."""

    def __init__(self) -> None:
        super().__init__(lambda request: "cents is not a number" if request.request_id.startswith("bad") else None)
        self.outage: str | None = None
        self.forgotten: list[str] = []
        self.answers_to_lose = 0  # batches that commit, and whose receipts are lost

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        if self.outage:
            raise SinkUnavailable(self.outage)
        receipts = await super().write(batch)
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            raise SinkUnavailable("connection lost")
        return receipts

    def repair(self) -> None:
        self._refuse = lambda _: None

    async def forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
        self.forgotten.append(request_id)
        known = [key for key, bound in self._bound.items() if key[0] == request_id]
        for key in known:
            if self._bound[key].outcome is Outcome.REJECTED:
                del self._bound[key]
        return bool(known)


@dataclass
class OperatedQueue:
    """A queue with one partition; its methods are what producers, the batcher worker and an operator do."""

    client: Client
    redis: Redis
    redis_url: str
    name: str
    environment: dict[str, str]
    sink: OperatorSink = field(default_factory=OperatorSink)

    @property
    def partition(self) -> PartitionRef:
        return PartitionRef(queue=self.name, partition=0)

    @property
    def stream(self) -> WriteQueue:
        return WriteQueue(self.redis, self.name, 0)

    @property
    def letters(self) -> QueueLetters:
        return QueueLetters(self.redis, self.name)

    @asynccontextmanager
    async def batching(
        self, max_wait: timedelta = MAX_WAIT, *, start: bool = True, sink: Sink | None = None
    ) -> AsyncIterator[None]:
        """Run a batcher worker; with `start` also start the batcher workflow."""
        limits = BatchLimits(max_items=10, max_bytes=100_000, max_wait=max_wait)
        drains = DrainActivities(
            queue=self.name,
            redis_url=self.redis_url,
            redis=self.redis,
            sink=sink or self.sink,
            limits=limits,
            partitions=1,
        )
        worker = Worker(
            self.client,
            task_queue=f"{self.name}-batcher",
            workflows=[BatcherWorkflow],
            activities=[drains.drain, drains.flush],
            workflow_runner=with_passthrough(None),
            graceful_shutdown_timeout=timedelta(seconds=10),
            max_heartbeat_throttle_interval=QUICK,
        )
        if start:
            await self.start_batcher()
        async with worker:
            yield
            drains.stop()

    async def start_batcher(self) -> None:
        await Partitions(self.redis, self.name).announce(1)
        await self.client.start_workflow(
            BatcherWorkflow.run,
            BatcherInput(partition=self.partition),
            id=batcher_workflow_id(self.partition),
            task_queue=f"{self.name}-batcher",
        )

    async def append(self, *request_ids: str) -> None:
        for request_id in request_ids:
            await self.stream.append(await self.fields(request_id), max_backlog=1_000)

    async def append_foreign(self, fields: Fields) -> None:
        """Append as a foreign producer does, with a plain XADD."""
        await self.redis.xadd(self.stream.stream_key, fields)  # type: ignore[arg-type] # invariant

    async def fields(self, request_id: str) -> Fields:
        return await Codec(self.client.data_converter).encode(a_request(request_id))

    async def add_dead_letter(self, fields: Fields, reason: str, partition: int = 0) -> LetterId:
        """Make a dead letter of `fields`; returns its id."""
        stream = WriteQueue(self.redis, self.name, partition)
        await stream.ensure_group()
        added: Any = await self.redis.xadd(stream.stream_key, fields)  # type: ignore[arg-type] # invariant
        await stream.dead_letter(StreamEntry(entry_id=added.decode(), fields=fields), "rejected", reason)
        last = await DeadLetters(self.redis, self.name, partition).last_id()
        assert last is not None
        return LetterId.parse(f"{partition}/{last}")

    async def selected(self, selection: Selection = ALL) -> list[Letter]:
        return [letter async for letter in self.letters.select(selection)]

    async def is_empty(self) -> bool:
        return (await self.stream.statistics()).backlog == 0

    async def has_dead_letters(self, number: int) -> bool:
        return (await self.stream.statistics()).dead == number

    async def view(self, *, max_wait: timedelta = MAX_WAIT) -> PartitionView:
        monitor = Monitor(self.client, self.redis, self.name, max_items=10, max_wait=max_wait)
        async with asyncio.timeout(WITHIN_S):
            [view] = await monitor.look()
        return view

    async def is_in(self, state: HostState) -> bool:
        return (await self.view()).host.state is state

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        return await run_command(*arguments, environment=self.environment)


def a_request(request_id: str) -> WriteRequest:
    return WriteRequest(request_id=request_id, table="orders", record={"item": "tea"})
