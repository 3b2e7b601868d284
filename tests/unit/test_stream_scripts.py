"""The Lua scripts of a stream on fakeredis. `integration/queue/test_stream.py` runs the same suite on a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from write_batcher.errors import QueueFull, QueueUnavailable
from write_batcher.queue.stream import CONSUMER, GROUP, WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Fields

BACKLOG = 100
NO_WAIT = timedelta(0)


def fields(request_id: str, payload: bytes = b"p", *, reply: bytes = b"") -> Fields:
    return {b"v": b"1", b"id": request_id.encode(), b"reply": reply, b"payload": payload}


async def take(queue: WriteQueue) -> list[StreamEntry]:
    await queue.ensure_group()
    return await queue.read_new(count=BACKLOG, block=NO_WAIT)


def as_written(entries: Iterable[StreamEntry]) -> list[tuple[StreamEntry, str | None]]:
    return [(entry, "written") for entry in entries]


async def state_of(queue: WriteQueue) -> tuple[int, int, int]:
    """The number of entries in the stream, of pending ones, and of dead letters."""
    statistics = await queue.statistics()
    return statistics.backlog, statistics.pending, statistics.dead


async def dead_letters(redis: Redis, queue: WriteQueue) -> list[Fields]:
    entries: Any = await redis.xrange(queue.dead_key)
    return [fields for _, fields in entries]


class ScriptSuite:
    @pytest.fixture
    def queue(self, redis: Redis, name: str) -> WriteQueue:
        return WriteQueue(redis, name, 0, reader=redis)

    async def test_entry_is_stored_as_it_was_appended(self, redis: Redis, queue: WriteQueue) -> None:
        entry_id = await queue.append(fields("a", b"\x00\xff"), max_backlog=BACKLOG)
        entries: Any = await redis.xrange(queue.stream_key)
        [(stored_id, stored)] = entries
        assert stored_id == entry_id.encode()
        assert stored == fields("a", b"\x00\xff") | {b"counted": b"1"}

    async def test_queued_request_is_not_appended_again(self, queue: WriteQueue) -> None:
        first = await queue.append(fields("a"), max_backlog=BACKLOG)
        assert await queue.append(fields("a", b"other"), max_backlog=BACKLOG) == first
        assert (await queue.statistics()).backlog == 1

    async def test_pending_request_is_not_appended_again(self, queue: WriteQueue) -> None:
        first = await queue.append(fields("a"), max_backlog=BACKLOG)
        await take(queue)
        assert await queue.append(fields("a"), max_backlog=BACKLOG) == first

    async def test_request_of_another_attempt_is_appended_beside_the_first(self, queue: WriteQueue) -> None:
        first = await queue.append(fields("a", reply=b"first"), max_backlog=BACKLOG)
        second = await queue.append(fields("a", reply=b"second"), max_backlog=BACKLOG)
        assert [entry.entry_id for entry in await take(queue)] == [first, second]

    async def test_request_of_another_attempt_is_appended_once(self, queue: WriteQueue) -> None:
        await queue.append(fields("a", reply=b"first"), max_backlog=BACKLOG)
        second = await queue.append(fields("a", reply=b"second"), max_backlog=BACKLOG)
        assert await queue.append(fields("a", reply=b"second"), max_backlog=BACKLOG) == second
        assert (await queue.statistics()).backlog == 2

    async def test_acknowledging_an_old_attempt_keeps_the_marker_of_the_newer(self, queue: WriteQueue) -> None:
        await queue.append(fields("a", reply=b"first"), max_backlog=BACKLOG)
        second = await queue.append(fields("a", reply=b"second"), max_backlog=BACKLOG)
        old, _ = await take(queue)
        await queue.acknowledge(as_written([old]))
        assert await queue.append(fields("a", reply=b"second"), max_backlog=BACKLOG) == second

    async def test_full_stream_refuses_another_attempt_too(self, queue: WriteQueue) -> None:
        await queue.append(fields("a", reply=b"first"), max_backlog=1)
        with pytest.raises(QueueFull):
            await queue.append(fields("a", reply=b"second"), max_backlog=1)

    async def test_acknowledged_request_may_be_appended_again(self, queue: WriteQueue) -> None:
        first = await queue.append(fields("a"), max_backlog=BACKLOG)
        await queue.acknowledge(as_written(await take(queue)))
        assert await queue.append(fields("a"), max_backlog=BACKLOG) != first

    async def test_request_is_appended_again_when_only_its_marker_survived(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        await queue.append(fields("a"), max_backlog=BACKLOG)
        await redis.delete(queue.stream_key)
        entry_id = await queue.append(fields("a"), max_backlog=BACKLOG)
        assert [entry.entry_id for entry in await take(queue)] == [entry_id]
        assert await redis.hgetall(queue.live_key) == {b"a": entry_id.encode()}

    async def test_similar_request_ids_are_different(self, queue: WriteQueue) -> None:
        for request_id in ("a", "A", "a ", "ä"):
            await queue.append(fields(request_id), max_backlog=BACKLOG)
        assert (await queue.statistics()).backlog == 4

    async def test_concurrent_appends_of_a_request_leave_one_entry(self, queue: WriteQueue) -> None:
        ids = await asyncio.gather(*(queue.append(fields("a"), max_backlog=BACKLOG) for _ in range(10)))
        assert len(set(ids)) == 1
        assert (await queue.statistics()).backlog == 1

    async def test_second_caller_of_a_request_id_gets_a_second_entry(self, redis: Redis, queue: WriteQueue) -> None:
        await queue.append(fields("a") | {b"reply": b"first"}, max_backlog=BACKLOG)
        second = await queue.append(fields("a") | {b"reply": b"second"}, max_backlog=BACKLOG)
        entries = await take(queue)
        assert [entry.fields[b"reply"] for entry in entries] == [b"first", b"second"]
        await queue.acknowledge([(entries[0], "written")])
        assert await redis.hgetall(queue.live_key) == {b"a": second.encode()}

    async def test_full_stream_refuses_with_its_key_size_and_limit(self, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=1)
        with pytest.raises(QueueFull, match="holds 1 entries, the limit is 1") as refused:
            await queue.append(fields("b"), max_backlog=1)
        assert queue.stream_key in str(refused.value)

    async def test_full_stream_still_answers_for_a_queued_request(self, queue: WriteQueue) -> None:
        first = await queue.append(fields("a"), max_backlog=1)
        assert await queue.append(fields("a"), max_backlog=1) == first

    async def test_full_stream_accepts_again_after_an_acknowledgement(self, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=1)
        await queue.acknowledge(as_written(await take(queue)))
        await queue.append(fields("b"), max_backlog=1)
        assert [entry.request_id for entry in await take(queue)] == [b"b"]

    async def test_refused_request_leaves_no_marker(self, redis: Redis, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=1)
        with pytest.raises(QueueFull):
            await queue.append(fields("b"), max_backlog=1)
        assert await redis.hkeys(queue.live_key) == [b"a"]

    async def test_only_acknowledged_entries_are_removed(self, redis: Redis, queue: WriteQueue) -> None:
        for request_id in ("a", "b", "c"):
            await queue.append(fields(request_id), max_backlog=BACKLOG)
        a, b, c = await take(queue)
        assert await queue.acknowledge(as_written([a, c])) == 2
        assert await state_of(queue) == (1, 1, 0)
        assert await redis.hgetall(queue.live_key) == {b"b": b.entry_id.encode()}

    async def test_acknowledging_twice_does_nothing_the_second_time(self, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=BACKLOG)
        entries = await take(queue)
        assert await queue.acknowledge(as_written(entries)) == 1
        assert await queue.acknowledge(as_written(entries)) == 0

    async def test_acknowledging_an_entry_keeps_the_marker_of_a_later_one(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        # As a producer in another language might append, without the script.
        await redis.xadd(queue.stream_key, fields("a"), id="1-0")  # type: ignore[arg-type] # invariant
        second = await queue.append(fields("a"), max_backlog=BACKLOG)
        first, _ = await take(queue)
        await queue.acknowledge(as_written([first]))
        assert await redis.hgetall(queue.live_key) == {b"a": second.encode()}

    async def test_empty_stream_has_no_markers_even_of_lost_entries(self, redis: Redis, queue: WriteQueue) -> None:
        await queue.append(fields("lost"), max_backlog=BACKLOG)
        await redis.delete(queue.stream_key)
        await queue.append(fields("a"), max_backlog=BACKLOG)
        await queue.acknowledge(as_written(await take(queue)))
        assert not await redis.exists(queue.live_key)

    async def test_entry_without_a_request_id_is_acknowledged(self, queue: WriteQueue) -> None:
        await queue.append_flush()
        assert await queue.acknowledge(as_written(await take(queue))) == 1

    async def test_dead_letter_keeps_every_field_the_reason_and_the_entry_id(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        await queue.append(fields("a", b"\x00\xff"), max_backlog=BACKLOG)
        [entry] = await take(queue)
        await queue.dead_letter(entry, "rejected", "no such table")
        [kept] = await dead_letters(redis, queue)
        assert kept == entry.fields | {b"dead-reason": b"no such table", b"dead-entry": entry.entry_id.encode()}
        assert kept[b"payload"] == b"\x00\xff"

    async def test_dead_lettered_entry_leaves_neither_entry_nor_marker(self, redis: Redis, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=BACKLOG)
        [entry] = await take(queue)
        await queue.dead_letter(entry, "rejected", "no such table")
        assert await state_of(queue) == (0, 0, 1)
        assert not await redis.exists(queue.live_key)

    async def test_entry_is_dead_lettered_once(self, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=BACKLOG)
        [entry] = await take(queue)
        await queue.dead_letter(entry, "rejected", "no such table")
        await queue.dead_letter(entry, "rejected", "no such table")
        assert (await queue.statistics()).dead == 1

    async def test_dead_letter_takes_a_reason_that_is_not_valid_unicode(self, redis: Redis, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=BACKLOG)
        [entry] = await take(queue)
        await queue.dead_letter(entry, "rejected", "no table \ud800")
        [kept] = await dead_letters(redis, queue)
        assert kept[b"dead-reason"] == b"no table \\ud800"

    async def test_dead_letter_keeps_at_most_3500_fields(self, redis: Redis, queue: WriteQueue) -> None:
        many = {str(number).encode(): b"x" for number in range(10_000)}
        await redis.xadd(queue.stream_key, many)  # type: ignore[arg-type] # its dict is invariant
        [entry] = await take(queue)
        await queue.dead_letter(entry, "rejected", "nonsense")
        [kept] = await dead_letters(redis, queue)
        assert len(kept) == 3_502
        assert (await queue.statistics()).backlog == 0

    async def test_deaths_while_an_entry_is_written_alone_are_counted(self, redis: Redis, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=BACKLOG)
        [entry] = await take(queue)
        assert await queue.deaths_alone(entry) == 0
        await queue.begin_alone(entry)
        await queue.begin_alone(entry)
        assert await queue.deaths_alone(entry) == 2
        await queue.end_alone(entry)
        assert not await redis.exists(queue.alone_key)

    async def test_statistics_count_queued_pending_and_dead(self, queue: WriteQueue) -> None:
        assert await state_of(queue) == (0, 0, 0)
        for request_id in ("a", "b", "c"):
            await queue.append(fields(request_id), max_backlog=BACKLOG)
        assert await state_of(queue) == (3, 0, 0)
        await queue.ensure_group()
        [first] = await queue.read_new(count=1, block=NO_WAIT)
        assert await state_of(queue) == (3, 1, 0)
        await queue.dead_letter(first, "rejected", "no such table")
        assert await state_of(queue) == (2, 0, 1)

    async def test_group_sees_entries_appended_before_it(self, queue: WriteQueue) -> None:
        await queue.append(fields("early"), max_backlog=BACKLOG)
        assert [entry.request_id for entry in await take(queue)] == [b"early"]

    async def test_existing_group_is_left_as_it_is(self, queue: WriteQueue) -> None:
        await queue.append(fields("a"), max_backlog=BACKLOG)
        assert len(await take(queue)) == 1
        assert await take(queue) == []

    async def test_pending_entries_are_read_again_in_order_and_in_pages(self, queue: WriteQueue) -> None:
        for request_id in ("a", "b", "c"):
            await queue.append(fields(request_id), max_backlog=BACKLOG)
        taken = await take(queue)
        first = await queue.read_pending(after="0", count=2)
        rest = await queue.read_pending(after=first[-1].entry_id, count=2)
        assert first + rest == taken
        assert await queue.read_pending(after=rest[-1].entry_id, count=2) == []

    async def test_partitions_of_a_queue_are_separate(self, redis: Redis, name: str) -> None:
        first, second = WriteQueue(redis, name, 0, reader=redis), WriteQueue(redis, name, 1, reader=redis)
        await first.append(fields("a"), max_backlog=BACKLOG)
        assert (len(await take(first)), len(await take(second))) == (1, 0)

    async def test_keys_of_a_partition_share_one_cluster_slot(self, redis: Redis) -> None:
        queue = WriteQueue(redis, "orders", 3)
        keys = (queue.stream_key, queue.live_key, queue.dead_key)
        assert keys == tuple(f"write-batcher:{{orders:3}}:{name}" for name in ("requests", "live", "dead"))


class TestFakeRedis(ScriptSuite):
    @pytest.fixture
    async def redis(self) -> AsyncIterator[Redis]:
        async with FakeAsyncRedis() as client:
            yield client


async def test_entry_knows_its_size_and_time() -> None:
    entry = StreamEntry(entry_id="1700000000123-4", fields={b"id": b"abc", b"payload": b"12345"})
    assert (entry.size_bytes, entry.entry_ms, entry.request_id) == (17, 1_700_000_000_123, b"abc")


async def test_queue_without_a_reader_cannot_read() -> None:
    async with FakeAsyncRedis() as client:
        with pytest.raises(TypeError, match="has no reader"):
            await WriteQueue(client, "orders", 0).read_new(count=1, block=NO_WAIT)


async def test_unreachable_server_makes_the_queue_unavailable() -> None:
    async with FakeAsyncRedis(connected=False) as client:
        queue = WriteQueue(client, "orders", 0, reader=client)
        for call in (queue.append(fields("a"), max_backlog=1), queue.ensure_group(), queue.now_ms(), take(queue)):
            with pytest.raises(QueueUnavailable):
                await call


def test_consumer_and_group_have_the_documented_names() -> None:
    assert (GROUP, CONSUMER) == ("batcher", "drain")
