"""Our side: the drain of a partition as a batcher runs it, without Temporal around it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from temporalio.converter import DataConverter
from temporalio.testing import ActivityEnvironment

from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.decode import RESERVED_BYTES
from write_batcher.activities.drain.loop import Drain
from write_batcher.activities.drain.read import LONGEST_BLOCK
from write_batcher.bench.instant_temporal import InstantTemporal
from write_batcher.bench.sample import Sample, Servers, Stopwatch
from write_batcher.config import Settings
from write_batcher.errors import WrongWork
from write_batcher.models import DrainProgress, DrainResult, PartitionRef, QueueRef
from write_batcher.queue.contract import Contract
from write_batcher.queue.keys import PartitionKeys
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.serving import spare_garbage_collector

# The end of the drain is looked for after a quarter of the time that is probably left, so that looking takes no CPU
# time to speak of and the end is noticed soon.
SHARE_OF_TIME_LEFT = 0.25
SHORTEST_LOOK, LONGEST_LOOK = timedelta(milliseconds=4), timedelta(milliseconds=250)
NEVER = timedelta(days=1)
MOST_ENTRY_BYTES = 2048  # more than an entry of any case has
GIVE_UP_AFTER = timedelta(seconds=60)  # without a single entry less in the stream


class OwnDrain:
    """Drains all partitions of one queue, in this process and into one sink, as a batcher worker does."""

    def __init__(
        self, redis_url: str, ref: QueueRef, converter: DataConverter, *, batch_size: int, partitions: int = 1
    ) -> None:
        self._redis_url = redis_url
        self._ref = ref
        self._converter = converter
        self._limits = limits_of(batch_size)
        self._partitions = partitions
        self.empty_after_s: list[float] = []
        """Of the latest run: after how many seconds each partition was empty."""

    async def run(self, database_url: str, table: str, requests: int, servers: Servers) -> tuple[Sample, DrainProgress]:
        """Drain the queue, which holds `requests` entries, into `table`, and measure until all streams are empty.

        Connections and statements about the schema are made before the measurement. Raises `WrongWork` when a stream
        does not become empty.
        """
        temporal = InstantTemporal(self._converter)
        spare_garbage_collector()  # as in a worker's process
        async with contextlib.AsyncExitStack() as stack:
            redis = await stack.enter_async_context(connect(self._redis_url))
            sink = await stack.enter_async_context(SqlSink.open(database_url, tables=[table]))
            contract = _contract(sink, self._limits, self._partitions)
            drains = []
            for partition in range(self._partitions):
                reader = await stack.enter_async_context(connect(self._redis_url, longest_block=LONGEST_BLOCK))
                queue = WriteQueue(
                    redis,
                    self._ref,
                    partition,
                    reader=reader,
                    largest_entry=self._limits.max_request_bytes + RESERVED_BYTES,
                )
                # Closes the last batch, if it is not full.
                await queue.append_flush()
                drains.append(self._drain(queue, sink, contract, temporal))
            sample, results = await self._run_all(drains, redis, requests, servers)
        progress = _total(result.progress for result in results)
        if progress.confirmed != temporal.receipts:
            raise WrongWork(f"The drain counted {progress.confirmed} receipts and sent {temporal.receipts}.")
        return sample, progress

    def _drain(self, queue: WriteQueue, sink: SqlSink, contract: Contract, temporal: InstantTemporal) -> Drain:
        return Drain(
            PartitionRef(queue=self._ref.name, partition=queue.partition),
            ref=self._ref,
            queue=queue,
            sink=sink,
            limits=self._limits,
            contract=lambda: contract,
            client=temporal.client,
        )

    async def _run_all(
        self, drains: list[Drain], redis: Redis, requests: int, servers: Servers
    ) -> tuple[Sample, list[DrainResult]]:
        stopwatch = Stopwatch.begin(servers)
        running = [asyncio.create_task(ActivityEnvironment().run(drain.run)) for drain in drains]
        try:
            share = requests // len(drains)
            keys = [PartitionKeys(self._ref, number).stream_key for number in range(len(drains))]
            self.empty_after_s = await asyncio.gather(
                *(_until_empty(redis, key, share, task) for key, task in zip(keys, running, strict=True))
            )
            sample = stopwatch.end(requests)
            for drain in drains:
                drain.stop()
            return sample, [await task for task in running]
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)


def _total(parts: Iterable[DrainProgress]) -> DrainProgress:
    counts: Counter[str] = Counter()
    for progress in parts:
        counts.update({name: number for name, number in asdict(progress).items() if isinstance(number, int)})
    total: dict[str, Any] = dict(counts)
    return DrainProgress(**total)


def limits_of(batch_size: int) -> BatchLimits:
    """Return the limits of a batcher with default settings, but for what closes its batches: their number of requests
    alone, as on the floor, neither bytes nor age.
    """
    settings = Settings.model_construct()  # without looking at the environment
    return BatchLimits(
        max_items=batch_size,
        max_bytes=max(settings.max_bytes, batch_size * MOST_ENTRY_BYTES),
        max_wait=NEVER,
        max_request_bytes=settings.max_request_bytes,
        max_dead_letters=settings.max_dead_letters,
        dead_letter_retention=settings.dead_letter_retention,
    )


def _contract(sink: SqlSink, limits: BatchLimits, partitions: int) -> Contract:
    return Contract(
        sink_id=sink.sink_id,
        partitions=partitions,
        tables=sink.tables,
        max_wait_ms=limits.max_wait // timedelta(milliseconds=1),
        max_items=limits.max_items,
        max_request_bytes=limits.max_request_bytes,
        max_backlog=Settings.model_construct().max_backlog,
    )


async def _until_empty(redis: Redis, stream: str, requests: int, running: "asyncio.Task[DrainResult]") -> float:
    """Wait until the stream, which holds `requests` entries, is empty; return after how many seconds it was."""
    clock = asyncio.get_running_loop().time
    began = changed_at = clock()
    before = requests
    while left := int(await redis.xlen(stream)):
        if running.done():
            running.result()
            raise WrongWork(f"The drain ended with {left} of {requests} requests in the stream.")
        now = clock()
        if left != before:
            before, changed_at = left, now
        elif now - changed_at > GIVE_UP_AFTER.total_seconds():
            raise WrongWork(
                f"{left} of {requests} requests stay in the stream: nothing was written for "
                f"{GIVE_UP_AFTER.total_seconds():g} s."
            )
        done = max(requests - left, 1)
        guess = (now - began) * left / done * SHARE_OF_TIME_LEFT
        await asyncio.sleep(min(max(guess, SHORTEST_LOOK.total_seconds()), LONGEST_LOOK.total_seconds()))
    return clock() - began
