"""A whole drain on virtual time: its queue, sink and key server are in memory and misbehave as a test says."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.testing import ActivityEnvironment

from tests.support.fakes import FakeTemporal, MemorySink, contract_of
from tests.support.memory_queue import MemoryQueue
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.loop import Drain
from write_batcher.models import (
    MAX_REQUEST_AGE,
    Batch,
    DrainResult,
    Held,
    PartitionRef,
    QueueRef,
    ReplyAddress,
    WriteReceipt,
    WriteRequest,
)
from write_batcher.queue.wire_form import Codec

PARTITION = PartitionRef(queue="orders", partition=0)
REF = QueueRef(namespace="fake", name="orders")
ENCODE = Codec(DataConverter.default).encode


class KeyServer(PayloadCodec):
    """A codec that asks `trouble` about each record before it decodes it: it may wait, or raise."""

    def __init__(self) -> None:
        self.trouble: Callable[[str], float | Exception] = lambda _: 0.0
        """For a request id: how many seconds to wait, or what to raise."""
        self.asked: Counter[str] = Counter()

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        for payload in payloads:
            request_id = json.loads(payload.data)["record"]["id"]
            self.asked[request_id] += 1
            trouble = self.trouble(request_id)
            if isinstance(trouble, Exception):
                raise trouble
            await asyncio.sleep(trouble)
        return list(payloads)


class TroubledSink(MemorySink):
    """A ledger in memory that asks `trouble` about each batch before it writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Callable[[Batch], float | Exception] = lambda _: 0.0
        """For a batch: how many seconds to take, or what to raise."""
        self.settle_trouble: Callable[[WriteRequest], Exception | None] = lambda _: None
        self.begun_at: list[float] = []
        """When each transaction began, by the loop's clock."""
        self.writing = 0
        self.most_at_once = 0

    async def write(self, batch: Batch) -> list[WriteReceipt | Held]:
        self.begun_at.append(asyncio.get_running_loop().time())
        self.writing += 1
        self.most_at_once = max(self.most_at_once, self.writing)
        try:
            trouble = self.trouble(batch)
            if isinstance(trouble, Exception):
                raise trouble
            await asyncio.sleep(trouble)
            return await super().write(batch)
        finally:
            self.writing -= 1

    async def settle(self, request: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        await asyncio.sleep(0)
        if error := self.settle_trouble(request):
            raise error
        return await super().settle(request, queue=queue, refused=refused)


@dataclass
class VirtualPartition:
    """One partition, and what is around its drain."""

    max_items: int = 100
    max_bytes: int = 1_000_000
    max_wait: timedelta = timedelta(seconds=1)
    max_request_bytes: int = 100_000
    max_age: timedelta = MAX_REQUEST_AGE
    terms: dict[str, Any] = field(default_factory=dict)
    """Of the contract, instead of those that fit the sink; they may change while the drain runs."""
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    sink: TroubledSink = field(default_factory=TroubledSink)
    temporal: FakeTemporal = field(default_factory=FakeTemporal)
    keys: KeyServer = field(default_factory=KeyServer)
    entry_ids: dict[str, str] = field(default_factory=dict)
    """By request id."""

    def decode_with_key_server(self) -> None:
        self.temporal.data_converter = replace(DataConverter.default, payload_codec=self.keys)

    async def append(self, *request_ids: str, key: str = "", caller: str | None = None) -> None:
        for request_id in request_ids:
            reply = ReplyAddress(workflow_id=caller or request_id, run_id="run", attempt="run")
            request = WriteRequest(
                request_id=request_id, key=key, table="orders", record={"id": request_id}, reply=reply
            )
            self.entry_ids[request_id] = self.queue.add(await ENCODE(request))

    def drain(self) -> Drain:
        return Drain(
            PARTITION,
            ref=REF,
            queue=self.queue.queue,
            sink=self.sink,
            limits=BatchLimits(
                max_items=self.max_items,
                max_bytes=self.max_bytes,
                max_wait=self.max_wait,
                max_request_bytes=self.max_request_bytes,
                max_dead_letters=100,
                dead_letter_retention=timedelta(days=30),
                max_age=self.max_age,
            ),
            contract=lambda: replace(contract_of(self.sink), **self.terms),
            client=self.temporal.client,
        )

    @asynccontextmanager
    async def draining(self) -> AsyncIterator[Drain]:
        """A drain that runs inside, and is stopped at the end."""
        drain = self.drain()
        task = asyncio.create_task(ActivityEnvironment().run(drain.run))
        try:
            yield drain
            drain.stop()
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def until_empty(self) -> None:
        """Wait until nothing is left in the stream."""
        while self.queue.backlog:  # noqa: ASYNC110 - virtual seconds
            await asyncio.sleep(0.01)

    async def run_until_empty(self) -> DrainResult:
        """Drain until nothing is left in the stream."""
        drain = self.drain()
        task = asyncio.create_task(ActivityEnvironment().run(drain.run))
        while self.queue.backlog and not task.done():  # noqa: ASYNC110 - virtual seconds
            await asyncio.sleep(0.1)
        drain.stop()
        return await task
