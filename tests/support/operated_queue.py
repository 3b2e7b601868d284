"""A queue with one partition, its batcher, and an operator who looks at it and steers it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import PauseActivityRequest
from temporalio.client import Client
from temporalio.worker import Worker

from tests.support.batchers import announce, queue_ref, some_terms
from tests.support.command import run_command
from tests.support.fakes import MemorySink
from write_batcher.activities.drain.activity import DrainActivities
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.settle import SettleActivities
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Batch, Held, PartitionRef, QueueRef, WriteReceipt, WriteRequest
from write_batcher.queue.contract import Contract, Terms
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.record_encoding import with_hash
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec, Fields
from write_batcher.sinks.protocol import IdentifiedSink, Sink
from write_batcher.workers.operating.dead_letter_repair import Letter, QueueLetters
from write_batcher.workers.operating.dead_letter_selection import Selection
from write_batcher.workers.operating.host import HostState
from write_batcher.workers.operating.monitor import Monitor, PartitionView
from write_batcher.workers.operating.stream_ids import EntryId, LetterId
from write_batcher.workers.plugin import with_passthrough
from write_batcher.workflows.batcher import BatcherInput, BatcherWorkflow, batcher_workflow_id

QUICK = timedelta(milliseconds=100)
MAX_WAIT = timedelta(milliseconds=50)
WITHIN_S = 20
ALL = Selection()


class OperatorSink(MemorySink):
    """A sink that rejects requests whose id begins with `bad`, until `repair`, and holds those in `held`."""

    def __init__(self) -> None:
        super().__init__(lambda request: "cents is not a number" if request.request_id.startswith("bad") else None)
        self.outage: str | None = None
        self.held: dict[str, str] = {}
        """Reasons by request id."""
        self.answers_to_lose = 0  # batches that commit, and whose receipts are lost

    async def write(self, batch: Batch) -> list[WriteReceipt | Held]:
        if self.outage:
            raise SinkUnavailable(self.outage)
        written = [request for request in batch.requests if request.request_id not in self.held]
        answers = iter(await super().write(replace(batch, requests=tuple(written))) if written else ())
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            self.batches.pop()  # nobody hears of it
            raise SinkUnavailable("connection lost")
        return [
            Held(request_id=request.request_id, reason=reason)
            if (reason := self.held.get(request.request_id))
            else next(answers)
            for request in batch.requests
        ]

    def repair(self) -> None:
        """Reject no more; earlier rejections still bind."""
        self.refuse_all(None)


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
    def ref(self) -> QueueRef:
        return queue_ref(self.client, self.name)

    @property
    def stream(self) -> WriteQueue:
        return WriteQueue(self.redis, self.ref, 0)

    @property
    def letters(self) -> QueueLetters:
        return QueueLetters(self.redis, self.ref)

    async def announce(self, terms: Terms | None = None) -> Contract:
        """Announce the contract, as a batcher worker does at its start."""
        return await announce(self.redis, self.ref, terms or some_terms(max_items=10, max_wait_ms=50))

    @asynccontextmanager
    async def batching(
        self, max_wait: timedelta = MAX_WAIT, *, start: bool = True, sink: Sink | None = None
    ) -> AsyncIterator[None]:
        """Run a batcher worker; with `start` also start the batcher workflow."""
        sink = sink or self.sink
        assert isinstance(sink, IdentifiedSink)
        terms = some_terms(max_items=10, max_wait_ms=max_wait // timedelta(milliseconds=1), sink_id=sink.sink_id)
        contract = await self.announce(terms)
        limits = BatchLimits(
            max_items=10,
            max_bytes=100_000,
            max_wait=max_wait,
            max_request_bytes=terms.max_request_bytes,
            max_dead_letters=1_000,
            dead_letter_retention=timedelta(days=1),
        )
        drains = DrainActivities(
            queue=self.ref,
            redis_url=self.redis_url,
            redis=self.redis,
            sink=sink,
            limits=limits,
            contract=lambda: contract,
        )
        worker = Worker(
            self.client,
            task_queue=f"{self.name}-batcher",
            workflows=[BatcherWorkflow],
            activities=[drains.drain, drains.flush, SettleActivities(self.ref, sink, lambda: contract).settle_write],
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
        await self.client.start_workflow(
            BatcherWorkflow.run,
            BatcherInput(partition=self.partition),
            id=batcher_workflow_id(self.partition),
            task_queue=f"{self.name}-batcher",
        )

    async def pause_in_temporal(self) -> None:
        """Do what `temporal activity pause` does to the drain."""
        await self.client.workflow_service.pause_activity(
            PauseActivityRequest(
                namespace=self.client.namespace,
                execution=WorkflowExecution(workflow_id=batcher_workflow_id(self.partition)),
                type="drain",
            )
        )

    async def append(self, *requests: str | WriteRequest) -> None:
        """Append requests; a string stands for one with this id, which has no caller."""
        for request in requests:
            await self.stream.append(await self.fields(request), max_backlog=1_000)

    async def append_foreign(self, fields: Fields) -> None:
        """Append as a foreign producer does, with a plain XADD."""
        await self.redis.xadd(self.stream.stream_key, fields)  # type: ignore[arg-type] # invariant

    async def fields(self, request: str | WriteRequest) -> Fields:
        request = a_request(request) if isinstance(request, str) else request
        return await Codec(self.client.data_converter).encode(request)

    async def add_dead_letter(self, fields: Fields, reason: str, partition: int = 0) -> LetterId:
        """Make a dead letter of `fields`; returns its id."""
        stream = WriteQueue(self.redis, self.ref, partition)
        await stream.ensure_group()
        added: Any = await self.redis.xadd(stream.stream_key, fields)  # type: ignore[arg-type] # invariant
        entry = StreamEntry.of(added.decode(), fields)
        await stream.dead_letter(entry, "rejected", reason, max_letters=1_000)
        last = await DeadLetters(self.redis, self.ref, partition).last_id()
        assert last is not None
        return LetterId.at(partition, last)

    async def entry_ids(self) -> list[EntryId]:
        """Of all that is queued."""
        entries = await self.stream.entries(after="0", count=1_000, max_bytes=1_000_000)
        return [EntryId.at(0, entry.entry_id) for entry in entries]

    async def selected(self, selection: Selection = ALL) -> list[Letter]:
        return [letter async for letter in self.letters.select(selection)]

    async def is_empty(self) -> bool:
        return (await self.stream.statistics()).backlog == 0

    async def has_dead_letters(self, number: int) -> bool:
        return (await self.stream.statistics()).dead == number

    async def view(self) -> PartitionView:
        monitor = Monitor(self.client, self.redis, self.name)
        async with asyncio.timeout(WITHIN_S):
            [view] = await monitor.look()
        return view

    async def is_in(self, state: HostState) -> bool:
        return (await self.view()).host.state is state

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        return await run_command(*arguments, environment=self.environment)


def a_request(request_id: str) -> WriteRequest:
    return with_hash(WriteRequest(request_id=request_id, table="orders", record={"item": "tea"}))
