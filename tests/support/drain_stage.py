"""One partition with its drain: a real stream, a ledger in memory, and a Temporal that fails when told to."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from tests.support.fakes import FakeTemporal, MemorySink, contract_of
from tests.support.partitions import dead_letters, state_of
from tests.support.waiting import eventually
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.decode import RESERVED_BYTES
from write_batcher.activities.drain.loop import Drain
from write_batcher.errors import SinkUnavailable
from write_batcher.models import (
    MAX_REQUEST_AGE,
    Batch,
    DrainResult,
    FlushReason,
    Held,
    PartitionRef,
    QueueRef,
    ReplyAddress,
    WriteReceipt,
    WriteRequest,
)
from write_batcher.queue.contract import Contract
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream import PartitionStatistics, WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec, Fields

CODEC = Codec(FakeTemporal.data_converter)
NEVER = timedelta(minutes=5)
SOON = timedelta(milliseconds=20)
WITHIN_S = 15
EMPTY = (0, 0, 0)
MAX_REQUEST_BYTES = 300_000
OLD_ATTEMPT = ReplyAddress(workflow_id="caller", run_id="run-1", attempt="old")
NEW_ATTEMPT = ReplyAddress(workflow_id="caller", run_id="run-2", attempt="new")
CALLER_ENDED = RPCError("workflow execution already completed", RPCStatusCode.NOT_FOUND, b"")
TEMPORAL_AWAY = RPCError("no connection", RPCStatusCode.UNAVAILABLE, b"")

Answers = list[WriteReceipt | Held]


class BreakableSink(MemorySink):
    """A sink that can be broken."""

    def __init__(
        self,
        refuse: Callable[[WriteRequest], str | None] = lambda _: None,
        *,
        tables: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(refuse, tables=tables)
        self.outage: str | None = None
        """Makes the sink unavailable, for this reason."""
        self.spoil: Callable[[Answers], Answers] = lambda answers: answers
        """Changes the answers that it returns."""
        self._raised: dict[str, BaseException] = {}
        self._raised_when_settling: BaseException | None = None
        self.hangs = False
        self.delay_s = 0.0
        self.attempts = 0

    async def write(self, batch: Batch) -> Answers:
        self.attempts += 1
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.delay_s)
        if self.outage:
            raise SinkUnavailable(self.outage)
        for request in batch.requests:
            if error := self._raised.get(request.request_id):
                raise error
        return self.spoil(await super().write(batch))

    async def settle(self, request: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        if self._raised_when_settling:
            raise self._raised_when_settling
        return await super().settle(request, queue=queue, refused=refused)

    def raise_for(self, request_id: str, error: BaseException) -> None:
        """Raise this error whenever that request is to be written."""
        self._raised[request_id] = error

    def raise_when_settling(self, error: BaseException) -> None:
        self._raised_when_settling = error

    @property
    def reasons(self) -> list[FlushReason]:
        return [batch.flush_reason for batch in self.batches]

    @property
    def batch_ids(self) -> list[list[str]]:
        """The request ids of each batch."""
        return [[request.request_id for request in batch.requests] for batch in self.batches]


@dataclass
class Stage:
    """One partition with everything around its drain."""

    redis: Redis
    queue: WriteQueue
    partition: PartitionRef
    sink: BreakableSink
    temporal: FakeTemporal
    ref: QueueRef
    max_items: int = 100
    max_bytes: int = 100_000
    max_wait: timedelta = SOON
    max_dead_letters: int = 1_000
    max_age: timedelta = MAX_REQUEST_AGE
    partitions: int = 1
    """Of the contract."""
    contract: Contract | None = None
    """Instead of the one that fits the sink."""
    started_for: str = ""
    signer: Signer | None = None

    async def append(self, *request_ids: str, caller: str | None = None) -> None:
        """Append requests of `caller`, or each of a workflow with the request's own id."""
        for request_id in request_ids:
            await self.queue.append(await self.fields(request_id, caller or request_id), max_backlog=10_000)

    async def append_foreign(self, request_id: str, *, entry_id: str = "*", changes: Fields | None = None) -> None:
        """Append a valid entry with some `changes`, like a foreign producer that does not look whether it is queued."""
        fields = await self.fields(request_id, request_id) | (changes or {})
        await self.redis.xadd(self.queue.stream_key, fields, id=entry_id)  # type: ignore[arg-type] # invariant

    async def append_to(self, table: str, request_id: str) -> None:
        reply = ReplyAddress(workflow_id=request_id, run_id="run", attempt="run")
        request = WriteRequest(request_id=request_id, table=table, record={}, reply=reply)
        await self.queue.append(await CODEC.encode(request), max_backlog=10_000)

    async def append_for(self, reply: ReplyAddress, request_id: str) -> None:
        request = WriteRequest(request_id=request_id, table="orders", record={}, reply=reply)
        await self.queue.append(await CODEC.encode(request), max_backlog=10_000)

    async def withdraw(self, request_id: str, reply: ReplyAddress) -> None:
        """Settle a request like its caller."""
        request = WriteRequest(request_id=request_id, table="orders", record={}, reply=reply)
        await self.sink.settle(request, queue=str(self.ref))

    async def fields(self, request_id: str, caller: str) -> Fields:
        """The fields of a valid entry."""
        reply = ReplyAddress(workflow_id=caller, run_id="run", attempt="run")
        return await CODEC.encode(WriteRequest(request_id=request_id, table="orders", record={}, reply=reply))

    async def write_without_acknowledging(self, request_id: str) -> None:
        """Append a request whose drain is killed after it has written it and before it has told anybody."""
        await self.append(request_id)
        self.temporal.hold(request_id)
        async with self.draining() as running:
            await eventually(lambda: self.temporal.held == 1)
            await running.crash()
        self.temporal.release(request_id)

    async def deliver_without_writing(self, times: int) -> None:
        """Deliver all entries like drains that are killed while they hold what they read."""
        await self.queue.ensure_group()
        await self.queue.read_new(after="0", count=1000, max_bytes=10**9)
        for _ in range(times - 1):
            await self.queue.read_delivered(after="0", count=1000, max_bytes=10**9)

    async def pending(self) -> list[StreamEntry]:
        return await self.queue.entries(after="0", count=1000, max_bytes=10**9)

    def decode_with(self, codec: PayloadCodec) -> None:
        """Have the drain decode payloads with `codec`."""
        self.temporal.data_converter = replace(DataConverter.default, payload_codec=codec)

    def drain(self) -> Drain:
        return Drain(
            self.partition,
            ref=self.ref,
            queue=self.queue,
            sink=self.sink,
            limits=BatchLimits(
                max_items=self.max_items,
                max_bytes=self.max_bytes,
                max_wait=self.max_wait,
                max_request_bytes=MAX_REQUEST_BYTES,
                max_dead_letters=self.max_dead_letters,
                dead_letter_retention=timedelta(days=30),
                max_age=self.max_age,
            ),
            contract=lambda: self.contract or contract_of(self.sink, partitions=self.partitions),
            client=self.temporal.client,
            signer=self.signer,
            started_for=self.started_for,
        )

    async def failure(self) -> Exception:
        """Run a drain until it fails by itself; returns its error."""
        running = asyncio.create_task(ActivityEnvironment().run(self.drain().run))
        await _ended(running)
        error = running.exception()
        assert isinstance(error, Exception)
        return error

    @asynccontextmanager
    async def draining(self) -> AsyncIterator["RunningDrain"]:
        """A drain that runs inside and is stopped at the end."""
        drain = self.drain()
        task = asyncio.create_task(ActivityEnvironment().run(drain.run))
        running = RunningDrain(drain, task)
        try:
            yield running
            if not running.crashed:
                await running.stop()
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=WITHIN_S)

    async def statistics(self) -> PartitionStatistics:
        return await self.queue.statistics()

    async def is_empty(self) -> bool:
        return await self.holds(0)

    async def holds(self, entries: int) -> bool:
        return (await self.statistics()).backlog == entries

    async def counts(self) -> tuple[int, int, int]:
        """The number of entries in the stream, of pending ones, and of dead letters."""
        return await state_of(self.queue)

    async def has_no_dead_letters(self) -> bool:
        return (await self.statistics()).dead == 0

    async def dead_letters(self) -> list[Fields]:
        return await dead_letters(self.redis, self.queue)


@dataclass
class RunningDrain:
    """A drain in a task. With `crashed` set, nobody stops it at the end of the test."""

    drain: Drain
    task: asyncio.Task[DrainResult]
    crashed: bool = False

    async def stop(self) -> DrainResult:
        self.drain.stop()
        return await self.end()

    async def end(self) -> DrainResult:
        await _ended(self.task)
        return self.task.result()

    async def crash(self) -> None:
        """End the drain like a killed process, with nothing finished."""
        self.crashed = self.task.cancel()
        await asyncio.wait({self.task}, timeout=WITHIN_S)


async def _ended(drain: asyncio.Task[DrainResult]) -> None:
    await asyncio.wait({drain}, timeout=WITHIN_S)
    if not drain.done():
        drain.cancel()
        pytest.fail(f"the drain still runs after {WITHIN_S}s")


def stage_on(redis: Redis, reader: Redis, name: str) -> Stage:
    """A stage with one partition of the queue `name`."""
    ref = QueueRef(namespace=FakeTemporal.namespace, name=name)
    queue = WriteQueue(redis, ref, 0, reader=reader, largest_entry=MAX_REQUEST_BYTES + RESERVED_BYTES)
    return Stage(
        redis=redis,
        queue=queue,
        partition=PartitionRef(queue=name, partition=0),
        sink=BreakableSink(),
        temporal=FakeTemporal(),
        ref=ref,
    )
