"""The stream on a real server: blocking reads, crashes, no memory left, entries that no process has room for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import TypeVar

import pytest
from redis.asyncio import Redis

from tests.support.partitions import (
    BACKLOG,
    MAX_BYTES,
    TERMS,
    append,
    appended,
    as_written,
    die,
    fields,
    ids_of,
    queue_ref,
    redelivered,
    state_of,
    take,
)
from tests.support.redis_kinds import AnyRedis, tell_all
from tests.support.waiting import eventually
from write_batcher.errors import QueueFull, QueueUnavailable
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.marks import HeldMark, Order
from write_batcher.queue.redis_client import GroupMissing, connect
from write_batcher.queue.stream import GROUP, WriteQueue
from write_batcher.queue.stream_entry import StreamEntry

BLOCK = timedelta(seconds=5)
WITHIN_S = 15
MIB = 1024 * 1024
T = TypeVar("T")


@pytest.fixture
async def queue(redis: Redis, redis_server: AnyRedis, name: str) -> AsyncIterator[WriteQueue]:
    async with connect(redis_server.url, longest_block=BLOCK) as reader:
        yield WriteQueue(redis, queue_ref(name), 0, reader=reader)


@pytest.fixture
async def own_redis(own_server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(own_server.url) as client:
        yield client


@pytest.fixture
async def own_reader(own_server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(own_server.url, longest_block=BLOCK) as client:
        yield client


@pytest.fixture
async def own_queue(own_redis: Redis, own_reader: Redis, name: str) -> WriteQueue:
    return WriteQueue(own_redis, queue_ref(name), 0, reader=own_reader)


async def restart(server: AnyRedis, *clients: Redis) -> None:
    """Kill the server and start it again. `clients` drop their connections: a dead one may fail their next command."""
    await server.kill()
    await server.start()
    for client in clients:
        await client.aclose()


async def within_time(work: Awaitable[T]) -> T:
    async with asyncio.timeout(WITHIN_S):
        return await work


async def waiting_read(
    server: AnyRedis, queue: WriteQueue, *, after: str = "0", readers: int = 1
) -> asyncio.Task[list[StreamEntry]]:
    """Start a read and wait until it blocks in the server, as the last one of so many readers."""
    reading = asyncio.create_task(queue.read_new(after=after, count=BACKLOG, max_bytes=MAX_BYTES, block=BLOCK))

    async def is_blocked() -> bool:
        return sum(int(info["blocked_clients"]) for info in await tell_all(server, "INFO", "clients")) == readers

    await eventually(is_blocked)
    return reading


async def test_waiting_read_returns_with_the_first_entry(own_server: AnyRedis, own_queue: WriteQueue) -> None:
    await own_queue.ensure_group()
    reading = await waiting_read(own_server, own_queue)
    await append(own_queue, "a")
    assert ids_of(await within_time(reading)) == ["a"]


async def test_waiting_read_returns_all_that_came_together(own_server: AnyRedis, own_queue: WriteQueue) -> None:
    await own_queue.ensure_group()
    reading = await waiting_read(own_server, own_queue)
    await own_queue.append_all([fields(request_id) for request_id in "abc"], max_backlog=BACKLOG)
    assert ids_of(await within_time(reading)) == ["a", "b", "c"]


async def test_two_waiting_drains_both_read_everything_in_order(own_server: AnyRedis, own_queue: WriteQueue) -> None:
    await own_queue.ensure_group()
    reads = [await waiting_read(own_server, own_queue, readers=number) for number in (1, 2)]
    for request_id in ("a", "b"):  # one is given to each
        await append(own_queue, request_id)
    first, second = await within_time(asyncio.gather(*reads))
    assert {(*ids_of(first),), (*ids_of(second),)} <= {("a",), ("a", "b")}


async def test_read_finds_entries_with_lower_ids_after_redis_lost_its_data(
    own_server: AnyRedis, own_redis: Redis, own_queue: WriteQueue
) -> None:
    await own_queue.ensure_group()
    reading = await waiting_read(own_server, own_queue, after="9999999999999-0")  # read before the clock was set back
    await append(own_queue, "a")
    [entry] = await within_time(reading)
    await append(own_queue, "b")
    assert ids_of(await take(own_queue, after=entry.entry_id)) == ["b"]


async def test_read_without_new_entries_returns_empty_after_its_block(queue: WriteQueue) -> None:
    await queue.ensure_group()
    assert await queue.read_new(after="0", count=1, max_bytes=1, block=timedelta(milliseconds=20)) == []


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL", "XGROUP DESTROY"])
async def test_group_lost_during_a_read_is_reported_missing(
    own_server: AnyRedis, own_redis: Redis, own_queue: WriteQueue, command: str
) -> None:
    await own_queue.ensure_group()
    reading = await waiting_read(own_server, own_queue)
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
        await own_queue.read_new(after="0", count=1, max_bytes=1)

    with pytest.raises(GroupMissing):
        await within_time(read_on())


async def test_read_without_a_group_reports_it_missing(queue: WriteQueue) -> None:
    with pytest.raises(GroupMissing):
        await queue.read_new(after="0", count=1, max_bytes=1)
    with pytest.raises(GroupMissing):
        await queue.read_new(after="0", count=1, max_bytes=1, block=timedelta(seconds=1))


async def test_server_out_of_memory_refuses_appends_but_can_be_drained(
    own_server: AnyRedis, own_redis: Redis, own_queue: WriteQueue
) -> None:
    store, letters = ContractStore(own_redis, queue_ref("memory")), DeadLetters(own_redis, queue_ref("none"), 0)
    assert await letters.page() == []
    for request_id in ("a", "b", "c"):
        await append(own_queue, request_id)
    await own_queue.ensure_group()
    await tell_all(own_server, "CONFIG SET", "maxmemory", 1)

    with pytest.raises(QueueFull, match="out of memory"):
        await append(own_queue, "d")
    await store.announce("one", TERMS)
    await store.announce("one", TERMS)
    first, second, third = await take(own_queue)
    assert len(await redelivered(own_queue)) == 3
    await own_queue.begin_alone(first)
    await own_queue.mark_held({third.entry_id: HeldMark(request_id="c", reason="locked", since_ms=1)})
    assert await own_queue.give_order(third.entry_id, Order.REJECT)
    assert await own_queue.acknowledge(as_written([first])) == 1
    await die(own_queue, second)
    await own_queue.dead_letter(third, "rejected", "no", max_letters=1)
    assert await state_of(own_queue) == (0, 0, 1)
    assert await own_queue.trim_dead_letters(retention=timedelta(0)) == 1
    await store.leave("one")
    lease = timedelta(minutes=1)
    assert [await own_queue.may_wake(lease), await own_queue.may_wake(lease)] == [True, False]
    assert [await own_queue.may_probe(lease), await own_queue.may_probe(lease)] == [True, False]

    await tell_all(own_server, "CONFIG SET", "maxmemory", 0)
    await append(own_queue, "d")


async def test_server_killed_during_a_read_is_unavailable(own_server: AnyRedis, own_queue: WriteQueue) -> None:
    await own_queue.ensure_group()
    reading = await waiting_read(own_server, own_queue)
    await own_server.kill()
    with pytest.raises(QueueUnavailable):
        await within_time(reading)


async def test_restarted_server_has_kept_its_entries_and_runs_the_scripts(
    own_server: AnyRedis, own_redis: Redis, own_reader: Redis, own_queue: WriteQueue
) -> None:
    first = await appended(own_queue, "a")
    taken = await take(own_queue)
    await restart(own_server, own_redis, own_reader)
    [again] = await redelivered(own_queue)
    assert (again.fields, again.deliveries) == (taken[0].fields, 2)
    assert await appended(own_queue, "a") == first
    assert await own_queue.acknowledge(as_written(taken)) == 1


async def test_readers_get_little_of_huge_foreign_entries(
    own_server: AnyRedis, own_redis: Redis, own_queue: WriteQueue, name: str
) -> None:
    queue = WriteQueue(own_redis, queue_ref(name), 0, largest_entry=256 * 1024)
    huge = fields("huge", b"x" * 20 * MIB)
    for _ in range(3):
        await own_redis.xadd(queue.stream_key, huge)  # type: ignore[arg-type] # its dict is invariant
    await queue.ensure_group()
    before = await sent_bytes(own_server)
    entries: list[StreamEntry] = []
    for _ in range(3):
        position = entries[-1].entry_id if entries else "0"
        entries += await queue.read_new(after=position, count=1000, max_bytes=4 * MIB)
        await redelivered(queue)
        await queue.entries(after=position, count=1000, max_bytes=4 * MIB)
        await queue.statistics()
    for entry in entries:
        await die(queue, entry, reason="too large")
    letters = await DeadLetters(own_redis, queue_ref(name), 0).page()
    assert (ids_of(entries), [letter.request_id for letter in letters]) == (["huge"] * 3, ["huge"])
    assert await sent_bytes(own_server) - before < 100_000


async def sent_bytes(server: AnyRedis) -> int:
    """What the servers have sent to their clients."""
    return sum(
        int(info["total_net_output_bytes"]) - int(info.get("total_net_repl_output_bytes", 0))
        for info in await tell_all(server, "INFO", "stats")
    )
