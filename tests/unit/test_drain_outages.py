"""What the drains of a queue do together while their target is away or slow: on virtual time, with the real waits."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.support.memory_queue import MemoryQueue, SharedState
from tests.support.virtual_drain import VirtualPartition
from tests.support.virtual_time import now, on_virtual_time
from write_batcher.activities.drain.outage import PROBE_LEASE, PROBE_SIZE
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Batch, Held, WriteReceipt
from write_batcher.queue.target_state import TargetState

Write = Callable[[Batch], Awaitable[list[WriteReceipt | Held]]]

AWAY = SinkUnavailable("connection refused")


class SharedTarget:
    """One database for several partitions. A try while it is away takes `hangs_s`."""

    def __init__(self, partitions: list[VirtualPartition], *, hangs_s: float = 0.0) -> None:
        self.away = True
        self.tries: list[tuple[float, int]] = []
        self.at_once = self.most_at_once = 0
        self._hangs_s = hangs_s
        for partition in partitions:
            partition.sink.write = self._answering(partition.sink.write)  # type: ignore[method-assign, assignment]

    def _answering(self, write: Write) -> Write:
        async def answer(batch: Batch) -> list[WriteReceipt | Held]:
            if not self.away:
                return await write(batch)
            self.tries.append((now(), len(batch.requests)))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await asyncio.sleep(self._hangs_s)
            finally:
                self.at_once -= 1
            raise AWAY

        return answer


def sharing(count: int) -> list[VirtualPartition]:
    shared = SharedState()
    return [VirtualPartition(max_items=100, queue=MemoryQueue(shared=shared)) for _ in range(count)]


async def fill(partitions: list[VirtualPartition], requests: int) -> None:
    for partition in partitions:
        await partition.append(*(f"{number}" for number in range(requests)))


@on_virtual_time
async def test_target_that_is_away_is_tried_by_one_small_batch_at_a_time() -> None:
    partitions = sharing(8)
    target = SharedTarget(partitions, hangs_s=5)
    await fill(partitions, 200)
    async with AsyncExitStack() as stack:
        for partition in partitions:
            await stack.enter_async_context(partition.draining())
        await asyncio.sleep(6)  # each of them finds out
        target.most_at_once = target.at_once
        target.tries.clear()
        await asyncio.sleep(300)
        assert target.most_at_once <= 1
        assert 20 < len(target.tries) < 60
        assert {requests for _at, requests in target.tries} == {PROBE_SIZE}
        target.away = False
        began = now()
        for partition in partitions:
            await partition.until_empty()
        assert now() - began < 25
    for partition in partitions:
        assert len(partition.sink.batches[0].requests) == PROBE_SIZE


@on_virtual_time
async def test_all_start_again_soon_but_not_at_once() -> None:
    partitions = sharing(20)
    target = SharedTarget(partitions)
    await fill(partitions, 1)
    async with AsyncExitStack() as stack:
        for partition in partitions:
            await stack.enter_async_context(partition.draining())
        await asyncio.sleep(60)
        target.away = False
        for partition in partitions:
            await partition.until_empty()
    begun = sorted(partition.sink.begun_at[-1] for partition in partitions)
    assert 0.2 < begun[-1] - begun[0] < 20
    assert len({round(at, 2) for at in begun}) > 5


@on_virtual_time
async def test_partition_whose_own_writes_fail_does_not_keep_the_others_waiting() -> None:
    bad, good = partitions = sharing(2)
    bad.sink.trouble = lambda _batch: AWAY
    good.sink.trouble = lambda _batch: AWAY if now() < began + 10 else 0.0
    began = now()
    await fill(partitions, 1)
    async with bad.draining(), good.draining():
        await good.until_empty()
        assert now() - began < 45
        await good.append("later")
        await asyncio.sleep(2)
        assert good.queue.backlog == 0


@on_virtual_time
async def test_drain_that_dies_while_it_tries_keeps_the_others_waiting_for_seconds_only() -> None:
    [partition] = sharing(1)
    partition.sink.trouble = lambda _batch: AWAY if now() < began + 1 else 0.0
    await partition.append("a")
    began = now()
    async with partition.draining():
        await asyncio.sleep(0.5)
        await partition.queue.queue.note_target(TargetState.PROBING, PROBE_LEASE)  # and then it dies
        await partition.until_empty()
    assert now() - began < PROBE_LEASE.total_seconds() + 3


@on_virtual_time
async def test_without_redis_each_drain_tries_by_itself() -> None:
    [partition] = sharing(1)
    partition.sink.trouble = lambda _batch: AWAY if now() < began + 20 else 0.0
    await partition.append("a")
    began = now()
    async with partition.draining():
        await asyncio.sleep(1.5)
        partition.queue.outage = "away"
        await asyncio.sleep(60)
        assert len(partition.sink.batches) == 1
        partition.queue.outage = None


@on_virtual_time
async def test_slow_target_gets_smaller_batches_and_all_of_them_again_when_it_recovers() -> None:
    partition = VirtualPartition(max_items=100, terms={"target_latency_ms": 250})
    slow = True
    partition.sink.trouble = lambda batch: 0.01 * len(batch.requests) if slow else 0.001
    await partition.append(*(f"{number}" for number in range(1_200)))
    async with partition.draining():
        while partition.queue.backlog > 400:  # noqa: ASYNC110 - virtual seconds
            await asyncio.sleep(0.1)
        sizes = [len(batch.requests) for batch in partition.sink.batches]
        assert 15 <= sorted(sizes)[len(sizes) // 2] <= 30
        slow = False
        await partition.until_empty()
        await partition.append(*(f"later-{number}" for number in range(1_500)))
        await asyncio.sleep(5)
        assert partition.queue.backlog == 0
        assert max(len(batch.requests) for batch in partition.sink.batches[-5:]) == 100


@on_virtual_time
async def test_target_that_stood_still_once_is_not_left_alone_for_long() -> None:
    partition = VirtualPartition(max_items=10, terms={"target_latency_ms": 10})
    took = iter([0.5] * 8 + [30.0])
    partition.sink.trouble = lambda _batch: next(took, 0.5)
    await partition.append(*(f"{number}" for number in range(1_000)))
    async with partition.draining() as drain:
        while len(partition.sink.begun_at) < 9:  # noqa: ASYNC110 - virtual seconds
            await asyncio.sleep(0.1)
        await asyncio.sleep(30 + 11)
        assert len(partition.sink.begun_at) >= 10
        assert "a rest" in (drain.details().throttled or "")
        partition.terms["target_latency_ms"] = None
        await asyncio.sleep(1.1)
        before = len(partition.sink.begun_at)
        await asyncio.sleep(10)
        assert len(partition.sink.begun_at) - before >= 18  # without any rest
        assert drain.details().throttled is None
        partition.sink.trouble = lambda _batch: 0.0
