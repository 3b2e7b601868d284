"""The stream on a real server: blocking reads, crashes, no memory left; and the taker that reads it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis
from temporalio.converter import DataConverter

from tests.support.redis_kinds import AnyRedis, tell_all
from tests.support.waiting import eventually
from tests.unit.test_stream_scripts import BACKLOG, ScriptSuite, as_written, fields, state_of, take
from write_batcher.activities.drain import take as take_module
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.take import LONGEST_BLOCK, Taker
from write_batcher.activities.drain.watch import Watch
from write_batcher.errors import QueueFull, QueueUnavailable
from write_batcher.models import WriteRequest
from write_batcher.queue.redis_client import GroupMissing, connect
from write_batcher.queue.stream import CONSUMER, FOREIGN_IDLE, GROUP, WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec

NO_WAIT = timedelta(0)
WITHIN_S = 15
T = TypeVar("T")
CODEC = Codec(DataConverter.default)


class TestValkey(ScriptSuite):
    async def test_largest_batch_is_acknowledged_in_one_step(self, redis: Redis, queue: WriteQueue) -> None:
        async with redis.pipeline(transaction=False) as pipeline:
            for number in range(10_000):
                pipeline.xadd(queue.stream_key, {b"id": str(number)})
            await pipeline.execute()
        await queue.ensure_group()
        entries = await queue.read_new(count=10_000, block=NO_WAIT)
        assert await queue.acknowledge(as_written(entries)) == 10_000


@pytest.fixture
async def queue(redis: Redis, redis_server: AnyRedis, name: str) -> AsyncIterator[WriteQueue]:
    async with connect(redis_server.url, longest_block=LONGEST_BLOCK) as reader:
        yield WriteQueue(redis, name, 0, reader=reader)


@pytest.fixture
async def own_redis(own_server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(own_server.url) as client:
        yield client


@pytest.fixture
async def own_reader(own_server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(own_server.url, longest_block=LONGEST_BLOCK) as client:
        yield client


@pytest.fixture
async def own_queue(own_redis: Redis, own_reader: Redis, name: str) -> WriteQueue:
    return WriteQueue(own_redis, name, 0, reader=own_reader)


async def restart(server: AnyRedis, *clients: Redis) -> None:
    """Kill the server and start it again. `clients` drop their connections: a dead one may fail their next command."""
    await server.kill()
    await server.start()
    for client in clients:
        await client.aclose()


async def within_time(work: Awaitable[T]) -> T:
    async with asyncio.timeout(WITHIN_S):
        return await work


async def blocked_read(server: AnyRedis, queue: WriteQueue) -> asyncio.Task[list[StreamEntry]]:
    """Start a read and wait until it blocks in the server."""
    reading = asyncio.create_task(queue.read_new(count=BACKLOG, block=LONGEST_BLOCK))

    async def is_blocked() -> bool:
        return sum(int(info["blocked_clients"]) for info in await tell_all(server, "INFO", "clients")) == 1

    await eventually(is_blocked)
    return reading


async def test_blocked_read_returns_with_the_first_entry(own_server: AnyRedis, own_queue: WriteQueue) -> None:
    await own_queue.ensure_group()
    reading = await blocked_read(own_server, own_queue)
    await own_queue.append(fields("a"), max_backlog=BACKLOG)
    assert [entry.request_id for entry in await within_time(reading)] == [b"a"]


async def test_read_without_new_entries_returns_empty_after_its_block(queue: WriteQueue) -> None:
    await queue.ensure_group()
    assert await queue.read_new(count=1, block=timedelta(milliseconds=20)) == []


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL", "XGROUP DESTROY"])
async def test_group_lost_during_a_read_is_reported_missing(
    own_server: AnyRedis, own_redis: Redis, own_queue: WriteQueue, command: str
) -> None:
    await own_queue.ensure_group()
    reading = await blocked_read(own_server, own_queue)
    match command:
        case "FLUSHALL":
            await own_redis.flushall()
        case "DEL":
            await own_redis.delete(own_queue.stream_key)
        case _:
            await own_redis.xgroup_destroy(own_queue.stream_key, GROUP)

    async def read_on() -> None:
        await reading
        # Redis 6.2 reports it only here: its blocked read ends without an error.
        await own_queue.read_new(count=1, block=NO_WAIT)

    with pytest.raises(GroupMissing):
        await within_time(read_on())


async def test_read_without_a_group_reports_it_missing(queue: WriteQueue) -> None:
    with pytest.raises(GroupMissing):
        await queue.read_new(count=1, block=NO_WAIT)
    with pytest.raises(GroupMissing):
        await queue.read_pending(after="0", count=1)
    with pytest.raises(GroupMissing):
        await queue.claim_foreign()


async def test_deleted_pending_entry_has_no_fields(redis: Redis, queue: WriteQueue) -> None:
    entry_id = await queue.append(fields("a"), max_backlog=BACKLOG)
    await take(queue)
    await redis.xdel(queue.stream_key, entry_id)
    assert await queue.read_pending(after="0", count=1) == [StreamEntry(entry_id=entry_id, fields={})]


async def test_entries_long_pending_for_another_consumer_are_taken_over(redis: Redis, queue: WriteQueue) -> None:
    idle_ms = int(FOREIGN_IDLE.total_seconds() * 1000) + 1000
    for number in range(250):  # more than one XAUTOCLAIM examines
        await queue.append(fields(str(number)), max_backlog=BACKLOG * 10)
    await queue.ensure_group()
    await redis.xreadgroup(GROUP, "somebody", {queue.stream_key: ">"}, count=250)
    entries: Any = await redis.xrange(queue.stream_key)
    ids = [entry_id for entry_id, _ in entries]
    await redis.xclaim(queue.stream_key, GROUP, "somebody", 0, ids, idle=idle_ms)

    await queue.claim_foreign()

    own = await queue.read_pending(after="0", count=1000)
    assert [entry.entry_id.encode() for entry in own] == ids


async def test_entries_another_consumer_has_just_read_are_left_to_it(redis: Redis, queue: WriteQueue) -> None:
    await queue.append(fields("a"), max_backlog=BACKLOG)
    await queue.ensure_group()
    await redis.xreadgroup(GROUP, "somebody", {queue.stream_key: ">"})
    await queue.claim_foreign()
    assert await queue.read_pending(after="0", count=1) == []


async def test_taking_over_does_not_count_as_a_delivery(redis: Redis, queue: WriteQueue) -> None:
    entry_id = await queue.append(fields("a"), max_backlog=BACKLOG)
    await queue.ensure_group()
    await redis.xreadgroup(GROUP, "somebody", {queue.stream_key: ">"})
    await redis.xclaim(queue.stream_key, GROUP, "somebody", 0, [entry_id], idle=100_000, retrycount=1)
    await queue.claim_foreign()
    [pending] = await redis.xpending_range(queue.stream_key, GROUP, "-", "+", 1)
    assert (pending["consumer"], pending["times_delivered"]) == (CONSUMER.encode(), 1)


async def test_server_out_of_memory_refuses_appends_but_can_be_drained(
    own_server: AnyRedis, own_queue: WriteQueue
) -> None:
    for request_id in ("a", "b"):
        await own_queue.append(fields(request_id), max_backlog=BACKLOG)
    first, second = await take(own_queue)
    await tell_all(own_server, "CONFIG SET", "maxmemory", 1)

    with pytest.raises(QueueFull, match="out of memory"):
        await own_queue.append(fields("c"), max_backlog=BACKLOG)
    await own_queue.begin_alone(first)
    assert await own_queue.acknowledge(as_written([first])) == 1
    await own_queue.dead_letter(second, "rejected", "no such table")
    assert await state_of(own_queue) == (0, 0, 1)

    await tell_all(own_server, "CONFIG SET", "maxmemory", 0)
    await own_queue.append(fields("c"), max_backlog=BACKLOG)


async def test_server_killed_during_a_read_is_unavailable(own_server: AnyRedis, own_queue: WriteQueue) -> None:
    await own_queue.ensure_group()
    reading = await blocked_read(own_server, own_queue)
    await own_server.kill()
    with pytest.raises(QueueUnavailable):
        await within_time(reading)


async def test_restarted_server_has_kept_its_entries_and_runs_the_scripts(
    own_server: AnyRedis, own_redis: Redis, own_reader: Redis, own_queue: WriteQueue
) -> None:
    first = await own_queue.append(fields("a"), max_backlog=BACKLOG)
    taken = await take(own_queue)
    await restart(own_server, own_redis, own_reader)
    assert await own_queue.read_pending(after="0", count=1) == taken
    assert await own_queue.append(fields("a"), max_backlog=BACKLOG) == first
    assert await own_queue.acknowledge(as_written(taken)) == 1


class Taking:
    """A taker, and the entries that it refused."""

    def __init__(self, queue: WriteQueue, *, max_items: int = 100, max_wait: timedelta = timedelta(0)) -> None:
        self.refused: list[tuple[str, str]] = []
        limits = BatchLimits(max_items=max_items, max_bytes=10_000, max_wait=max_wait)
        self.stopping = asyncio.Event()
        self.taker = Taker(queue, CODEC, limits, Watch(), self.stopping, self._refuse)

    async def _refuse(self, entry: StreamEntry, reason: str) -> None:
        self.refused.append((entry.entry_id, reason))

    async def batch(self) -> list[str]:
        """The request ids of the next batch."""
        async with asyncio.timeout(WITHIN_S):
            closed = await self.taker.next_batch()
        return [] if closed is None else [item.request.request_id for item in closed.items]


async def append_request(queue: WriteQueue, request_id: str) -> str:
    request = WriteRequest(request_id=request_id, table="orders", record={"cents": 1})
    return await queue.append(await CODEC.encode(request), max_backlog=BACKLOG)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take_module, "BACKOFF", Backoff(0.01, 0.05))
    monkeypatch.setattr(take_module, "LONGEST_BLOCK", timedelta(milliseconds=200))


async def test_taker_starts_with_the_pending_entries(queue: WriteQueue) -> None:
    await append_request(queue, "pending")
    await take(queue)
    await append_request(queue, "new")
    assert await Taking(queue, max_items=2).batch() == ["pending", "new"]


async def test_taker_closes_a_batch_in_time_although_reading_the_clock_failed(
    queue: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms, asked = queue.now_ms, 0

    async def fail_once() -> int:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise QueueUnavailable("a blip")
        return await now_ms()

    monkeypatch.setattr(queue, "now_ms", fail_once)
    await append_request(queue, "a")
    assert await Taking(queue, max_wait=timedelta(milliseconds=300)).batch() == ["a"]
    assert asked > 1


async def test_taker_does_not_take_an_entry_in_flight_again(queue: WriteQueue) -> None:
    taking = Taking(queue, max_items=1)
    await append_request(queue, "a")
    assert await taking.batch() == ["a"]
    taking.taker.release([], redeliver=True)
    await append_request(queue, "b")
    assert await taking.batch() == ["b"]
    assert taking.taker.in_flight == 2


async def test_taker_does_not_take_an_entry_acknowledged_while_it_reads(
    queue: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking = Taking(queue, max_items=1)
    await append_request(queue, "a")
    assert await taking.batch() == ["a"]
    deliveries = queue.deliveries

    async def acknowledged_meanwhile(entries: list[StreamEntry]) -> dict[str, int]:
        await queue.acknowledge(as_written(entries))
        taking.taker.release(entries, redeliver=False)
        return await deliveries(entries)

    monkeypatch.setattr(queue, "deliveries", acknowledged_meanwhile)
    taking.taker.release([], redeliver=True)
    next_batch = asyncio.create_task(taking.batch())
    await eventually(lambda: taking.taker.in_flight == 0)
    await append_request(queue, "b")
    assert await next_batch == ["b"]


async def test_taker_takes_an_entry_released_for_redelivery_again(queue: WriteQueue) -> None:
    taking = Taking(queue, max_items=1)
    await append_request(queue, "a")
    assert await taking.batch() == ["a"]
    taking.taker.release(await queue.read_pending(after="0", count=1), redeliver=True)
    assert await taking.batch() == ["a"]


async def test_taker_acknowledges_deleted_pending_entries(redis: Redis, queue: WriteQueue) -> None:
    await redis.xdel(queue.stream_key, await append_request(queue, "deleted"))
    deleted = await append_request(queue, "deleted later")
    await take(queue)
    await redis.xdel(queue.stream_key, deleted)
    await append_request(queue, "a")
    assert await Taking(queue, max_items=1).batch() == ["a"]
    assert await state_of(queue) == (1, 1, 0)


async def test_taker_refuses_garbage_with_the_reason_and_goes_on(redis: Redis, queue: WriteQueue) -> None:
    garbage: Any = await redis.xadd(queue.stream_key, {b"gar": b"bage"})
    await append_request(queue, "a")
    taking = Taking(queue)
    assert await taking.batch() == ["a"]
    assert taking.refused == [(garbage.decode(), "Version None is not b'1'.")]


async def test_taker_is_not_stopped_by_an_entry_from_the_far_future(redis: Redis, queue: WriteQueue) -> None:
    fields_ = await CODEC.encode(WriteRequest(request_id="a", table="orders", record={}))
    nanoseconds = f"{1_800_000_000 * 10**9}-0"  # as a producer in another language may set it by mistake
    await redis.xadd(queue.stream_key, fields_, id=nanoseconds)  # type: ignore[arg-type] # its dict is invariant
    assert await Taking(queue).batch() == ["a"]


async def test_taker_goes_on_after_the_server_lost_all_data(own_redis: Redis, own_queue: WriteQueue) -> None:
    taking = Taking(own_queue)
    next_batch = asyncio.create_task(taking.batch())
    await eventually(lambda: own_redis.exists(own_queue.stream_key))
    await own_redis.flushall()
    await append_request(own_queue, "after")
    assert await next_batch == ["after"]


async def test_taker_goes_on_after_the_server_was_killed(
    own_server: AnyRedis, own_redis: Redis, own_queue: WriteQueue
) -> None:
    taking = Taking(own_queue, max_items=2, max_wait=timedelta(minutes=5))
    await append_request(own_queue, "before")
    next_batch = asyncio.create_task(taking.batch())
    await eventually(lambda: taking.taker.in_flight == 1)
    await restart(own_server, own_redis)
    await append_request(own_queue, "after")
    assert await next_batch == ["before", "after"]


async def test_stopped_taker_returns_its_open_batch_and_then_nothing(queue: WriteQueue) -> None:
    taking = Taking(queue, max_wait=timedelta(minutes=5))
    await append_request(queue, "a")
    next_batch = asyncio.create_task(taking.batch())
    await eventually(lambda: taking.taker.in_flight == 1)
    taking.stopping.set()
    assert await next_batch == ["a"]
    assert await taking.batch() == []
