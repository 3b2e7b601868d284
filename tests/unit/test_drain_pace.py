"""What a pace does to the batches of one drain, and of several that share it: on virtual time, with the real waits."""

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise

from tests.support.memory_queue import MemoryQueue, SharedState
from tests.support.virtual_drain import VirtualPartition
from tests.support.virtual_time import now, on_virtual_time
from write_batcher.errors import SinkUnavailable
from write_batcher.models import FlushReason


def paced(pace: float | None, shared: SharedState | None = None, **terms: object) -> VirtualPartition:
    """A partition that writes a batch of 100 after 20 s, or as the pace allows."""
    queue = MemoryQueue(shared=shared)
    return VirtualPartition(
        max_items=100, max_wait=VirtualPartition.max_wait * 20, queue=queue, terms={"pace": pace, **terms}
    )


async def written(partition: VirtualPartition, *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        await partition.until_empty()


async def arrive(partition: VirtualPartition, *, per_s: int, for_s: int) -> None:
    for number in range(per_s * for_s):
        await partition.append(f"{number}")
        await asyncio.sleep(1 / per_s)


def reasons(partition: VirtualPartition) -> list[FlushReason]:
    return [batch.flush_reason for batch in partition.sink.batches]


def sizes(partition: VirtualPartition) -> list[int]:
    return [len(batch.requests) for batch in partition.sink.batches]


@on_virtual_time
async def test_quiet_queue_with_a_pace_answers_in_milliseconds() -> None:
    partition = paced(10)
    async with partition.draining():
        for number in range(5):
            await asyncio.sleep(1)
            await partition.append(f"{number}")
            await written(partition, within_s=0.05)
    assert reasons(partition) == [FlushReason.IDLE] * 5


@on_virtual_time
async def test_without_a_pace_a_batch_waits_for_its_time() -> None:
    partition = paced(None)
    async with partition.draining():
        await partition.append("a")
        await asyncio.sleep(19)
        assert partition.queue.backlog == 1
        await written(partition, within_s=2)
    assert reasons(partition) == [FlushReason.WAIT]


@on_virtual_time
async def test_busy_queue_fills_its_batches_and_keeps_the_pace() -> None:
    partition = paced(10)
    async with partition.draining():
        await arrive(partition, per_s=200, for_s=4)
        await written(partition, within_s=1)
    begun = partition.sink.begun_at
    assert min(after - before for before, after in pairwise(begun)) > 0.099
    assert len(begun) <= 42
    assert sorted(sizes(partition))[len(begun) // 2] in range(18, 23)  # what came in a tenth of a second


@on_virtual_time
async def test_backlog_is_written_in_full_batches_at_the_pace() -> None:
    partition = paced(4)
    await partition.append(*(f"{number}" for number in range(1_000)))
    async with partition.draining():
        await written(partition, within_s=4)
    assert sizes(partition) == [100] * 10


@on_virtual_time
async def test_partitions_share_the_pace_fairly() -> None:
    shared = SharedState()
    partitions = [paced(8, shared, partitions=4) for _ in range(4)]
    async with AsyncExitStack() as stack:
        for partition in partitions:
            await stack.enter_async_context(partition.draining())
        await asyncio.gather(*(arrive(partition, per_s=50, for_s=4) for partition in partitions))
        counts = [len(partition.sink.begun_at) for partition in partitions]
    begun = sorted(at for partition in partitions for at in partition.sink.begun_at)
    assert min(after - before for before, after in pairwise(begun)) > 0.124
    assert max(counts) - min(counts) <= 1
    assert sum(counts) >= 31


@on_virtual_time
async def test_busy_partition_does_not_keep_a_quiet_one_from_its_turn() -> None:
    shared = SharedState()
    busy, quiet = paced(10, shared, partitions=2), paced(10, shared, partitions=2)
    await busy.append(*(f"{number}" for number in range(1_500)))
    async with busy.draining(), quiet.draining():
        await asyncio.sleep(1)
        await quiet.append("a")
        await written(quiet, within_s=0.25)


@on_virtual_time
async def test_rows_are_limited_over_all_partitions() -> None:
    shared = SharedState()
    partitions = [paced(None, shared, max_rate=200.0, partitions=2) for _ in range(2)]
    for partition in partitions:
        await partition.append(*(f"{number}" for number in range(400)))
    began = now()
    async with AsyncExitStack() as stack:
        for partition in partitions:
            await stack.enter_async_context(partition.draining())
        await asyncio.sleep(2)
        rows = sum(sum(sizes(partition)) for partition in partitions)
        assert 400 <= rows <= 2 * 200 + 200
        for partition in partitions:
            await written(partition, within_s=10)
    assert now() - began >= 2.9


@on_virtual_time
async def test_low_limit_of_rows_makes_small_transactions() -> None:
    partition = paced(None, max_rate=10.0)
    await partition.append(*(f"{number}" for number in range(60)))
    async with partition.draining():
        await written(partition, within_s=30)
    assert set(sizes(partition)) == {10}
    assert all(after - before > 0.99 for before, after in pairwise(partition.sink.begun_at))


@on_virtual_time
async def test_without_redis_a_drain_keeps_to_its_share() -> None:
    partition = paced(10, partitions=5)
    await partition.append(*(f"{number}" for number in range(300)))
    async with partition.draining():
        while len(partition.sink.begun_at) < 1:  # noqa: ASYNC110 - virtual seconds
            await asyncio.sleep(0.01)
        partition.queue.outage = "away"
        await asyncio.sleep(60)
        begun = list(partition.sink.begun_at)
        partition.queue.outage = None
        await written(partition, within_s=30)
    assert len(begun) in (2, 3)  # of what had been read before
    assert all(after - before > 0.49 for before, after in pairwise(begun[1:]))


@on_virtual_time
async def test_pace_that_is_set_anew_holds_at_once() -> None:
    partition = paced(1 / 60)
    async with partition.draining():
        await partition.append("first")
        await written(partition, within_s=1)
        await partition.append("second")
        await asyncio.sleep(5)
        assert partition.queue.backlog == 1
        partition.terms["pace"] = 10.0
        await written(partition, within_s=1.2)


@on_virtual_time
async def test_pace_that_is_taken_away_holds_nobody_any_longer() -> None:
    partition = paced(1 / 60)
    async with partition.draining():
        await partition.append("first")
        await written(partition, within_s=1)
        await partition.append(*(f"{number}" for number in range(100)))  # a full batch, which waits for its turn
        await asyncio.sleep(5)
        assert partition.queue.backlog == 100
        partition.terms["pace"] = None
        await written(partition, within_s=1.2)


@on_virtual_time
async def test_turn_is_not_held_while_a_transaction_runs() -> None:
    shared = SharedState()
    slow, quick = paced(2, shared, partitions=2), paced(2, shared, partitions=2)
    slow.sink.trouble = lambda _batch: 30.0
    await slow.append(*(f"{number}" for number in range(500)))
    async with quick.draining(), slow.draining():
        await asyncio.sleep(5)
        turn_at = shared.turn_at
        await asyncio.sleep(5)
        assert shared.turn_at == turn_at


@on_virtual_time
async def test_wait_that_is_set_holds_for_the_open_batch() -> None:
    partition = paced(None)
    async with partition.draining():
        await partition.append("a")
        await asyncio.sleep(2)
        partition.terms.update(max_wait_ms=1_000, set_live={"max_wait_ms": 1_000})
        await written(partition, within_s=1.2)


@on_virtual_time
async def test_batch_size_that_is_set_closes_the_open_batch() -> None:
    partition = paced(None)
    async with partition.draining():
        await partition.append(*(f"{number}" for number in range(50)))
        await asyncio.sleep(2)
        partition.terms.update(max_items=20, set_live={"max_items": 20})
        await written(partition, within_s=1.2)


@on_virtual_time
async def test_batch_size_that_is_set_holds_from_the_next_batch_on() -> None:
    partition = paced(None)
    async with partition.draining():
        partition.terms.update(max_items=10, set_live={"max_items": 10})
        await partition.append(*(f"{number}" for number in range(200)))
        await written(partition, within_s=1)
    assert set(sizes(partition)) == {10}


@on_virtual_time
async def test_drain_that_is_stopped_long_before_its_turn_leaves_the_batch_to_the_next_one() -> None:
    partition = paced(1 / 60)
    async with partition.draining():
        await partition.append("first")
        await written(partition, within_s=1)
        await partition.append("second")
        await asyncio.sleep(3)
        stopped_at = now()
    assert now() - stopped_at < 2
    assert partition.queue.backlog == 1


@on_virtual_time
async def test_tries_while_the_sink_is_away_keep_the_pace() -> None:
    partition = paced(0.5)
    partition.sink.trouble = lambda _batch: SinkUnavailable("away") if now() < began + 8 else 0.0
    began = now()
    await partition.append("a")
    async with partition.draining():
        await written(partition, within_s=60)
    assert min(after - before for before, after in pairwise(partition.sink.begun_at)) > 1.99
