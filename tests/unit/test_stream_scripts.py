"""The scripts that append, read and acknowledge. `integration/queue/test_scripts.py` runs the suite on real servers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from tests.support.partitions import (
    BACKLOG,
    MAX_BYTES,
    all_entries,
    append,
    appended,
    as_written,
    die,
    fields,
    ids_of,
    queue_ref,
    redelivered,
    reply_of,
    state_of,
    take,
)
from write_batcher.errors import QueueUnavailable
from write_batcher.queue.stream import CONSUMER, GROUP, AppendResult, WriteQueue
from write_batcher.queue.stream_entry import LONGEST_SHORT_FIELD

FAR_FUTURE = "1800000000000000000-0"  # nanoseconds, as a producer in another language may write them by mistake
CALLER, OTHER_CALLER = reply_of("one"), reply_of("other")


class StreamScripts:
    @pytest.fixture
    def queue(self, redis: Redis, name: str) -> WriteQueue:
        return WriteQueue(redis, queue_ref(name), 0, reader=redis)

    async def test_entry_is_stored_as_it_was_appended_with_its_time(self, redis: Redis, queue: WriteQueue) -> None:
        before = await queue.now_ms()
        entry_id = await appended(queue, "a", b"\x00\xff")
        entries: Any = await redis.xrange(queue.stream_key)
        [(stored_id, stored)] = entries
        assert stored_id == entry_id.encode()
        assert before <= int(stored.pop(b"counted")) <= await queue.now_ms()
        assert stored == fields("a", b"\x00\xff")

    async def test_queued_request_is_not_appended_again(self, queue: WriteQueue) -> None:
        first = await appended(queue, "a")
        assert await appended(queue, "a", b"other") == first
        assert (await queue.statistics()).backlog == 1

    async def test_pending_request_is_not_appended_again(self, queue: WriteQueue) -> None:
        first = await appended(queue, "a")
        await take(queue)
        assert await appended(queue, "a") == first

    async def test_entry_without_a_reply_is_found_again(self, queue: WriteQueue) -> None:
        without_reply = {name: value for name, value in fields("a").items() if name != b"reply"}
        first = await queue.append(without_reply, max_backlog=BACKLOG)
        assert await queue.append(without_reply, max_backlog=BACKLOG) == first

    async def test_request_of_another_attempt_is_appended_beside_the_first(self, queue: WriteQueue) -> None:
        first = await appended(queue, "a", reply=b"first")
        second = await appended(queue, "a", reply=b"second")
        assert await appended(queue, "a", reply=b"second") == second
        assert [entry.entry_id for entry in await take(queue)] == [first, second]

    async def test_acknowledging_an_old_attempt_keeps_the_marker_of_the_newer(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        await appended(queue, "a", reply=b"first")
        second = await appended(queue, "a", reply=b"second")
        old, _ = await take(queue)
        await queue.acknowledge(as_written([old]))
        assert await appended(queue, "a", reply=b"second") == second
        assert await redis.hvals(queue.live_key) == [second.encode()]

    async def test_callers_of_one_request_id_have_one_entry_each_whoever_appends_again(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        first, second = [await appended(queue, "a", reply=caller) for caller in (CALLER, OTHER_CALLER)]
        for _ in range(3):
            assert await appended(queue, "a", reply=CALLER) == first
            assert await appended(queue, "a", reply=OTHER_CALLER) == second
        assert await state_of(queue) == (2, 0, 0)
        assert await redis.hvals(queue.live_key) == [first.encode(), second.encode()]

    @pytest.mark.parametrize("gone", ["acknowledged", "lost by Redis"])
    async def test_caller_whose_entry_is_gone_is_appended_again_and_nobody_else(
        self, redis: Redis, queue: WriteQueue, gone: str
    ) -> None:
        first, second = [await appended(queue, "a", reply=caller) for caller in (CALLER, OTHER_CALLER)]
        entry, _ = await take(queue)
        if gone == "acknowledged":
            await queue.acknowledge(as_written([entry]))
            assert await redis.hvals(queue.live_key) == [second.encode()]
        else:
            await redis.xdel(queue.stream_key, first)
        again = await appended(queue, "a", reply=CALLER)
        assert await appended(queue, "a", reply=OTHER_CALLER) == second
        assert [entry.entry_id for entry in await all_entries(queue)] == [second, again]
        assert set(await redis.hvals(queue.live_key)) == {second.encode(), again.encode()}

    async def test_caller_is_appended_beside_its_entry_of_before_a_reset(self, redis: Redis, queue: WriteQueue) -> None:
        await append(queue, "a", reply=CALLER)
        later = await appended(queue, "a", reply=reply_of("one", run_id="later"))
        assert await appended(queue, "a", reply=reply_of("one", run_id="later")) == later
        assert (await queue.statistics()).backlog == 2
        assert await redis.hvals(queue.live_key) == [later.encode()]

    @pytest.mark.parametrize(
        "reply",
        [b"", b"{", b"3", b"[]", b'{"workflow_id": "\\ud800", "attempt": ""}', b"[" * 5000, b"\xff\x00", b"x" * 9000],
    )
    async def test_caller_without_a_readable_address_has_one_entry(
        self, redis: Redis, queue: WriteQueue, reply: bytes
    ) -> None:
        first = await appended(queue, "a", reply=reply)
        await append(queue, "a", reply=CALLER)
        assert await appended(queue, "a", reply=reply) == first
        entry, _ = await take(queue)
        await queue.acknowledge(as_written([entry]))
        assert await redis.hlen(queue.live_key) == 1

    async def test_acknowledged_request_may_be_appended_again(self, queue: WriteQueue) -> None:
        first = await appended(queue, "a")
        await queue.acknowledge(as_written(await take(queue)))
        assert await appended(queue, "a") != first

    async def test_request_is_appended_again_when_only_its_marker_survived(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        await appended(queue, "a")
        await redis.delete(queue.stream_key)
        entry_id = await appended(queue, "a")
        assert [entry.entry_id for entry in await take(queue)] == [entry_id]
        assert await redis.hvals(queue.live_key) == [entry_id.encode()]

    async def test_request_is_appended_again_when_another_one_got_the_id_of_its_lost_entry(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        lost = await appended(queue, "a")
        await redis.delete(queue.stream_key)
        await redis.xadd(queue.stream_key, fields("b"), id=lost)  # type: ignore[arg-type] # invariant
        assert await appended(queue, "a") != lost
        assert ids_of(await take(queue)) == ["b", "a"]

    async def test_similar_request_ids_are_different(self, queue: WriteQueue) -> None:
        for request_id in ("a", "A", "a ", "ä"):
            await append(queue, request_id)
        assert (await queue.statistics()).backlog == 4

    async def test_concurrent_appends_of_a_request_leave_one_entry(self, queue: WriteQueue) -> None:
        ids = await asyncio.gather(*(appended(queue, "a") for _ in range(10)))
        assert len(set(ids)) == 1
        assert (await queue.statistics()).backlog == 1

    async def test_many_requests_are_appended_in_their_order_and_each_once(self, queue: WriteQueue) -> None:
        first = await appended(queue, "b")
        results = await queue.append_all([fields(one) for one in "abac"], max_backlog=BACKLOG)
        assert results[1].entry_id == first
        assert results[0] == results[2]
        assert ids_of(await take(queue)) == ["b", "a", "c"]

    async def test_full_stream_takes_what_it_has_room_for(self, queue: WriteQueue) -> None:
        results = await queue.append_all([fields(one) for one in "abc"], max_backlog=2)
        assert [result.entry_id is not None for result in results] == [True, True, False]
        assert results[2] == AppendResult(backlog=2)

    async def test_full_stream_still_answers_for_a_queued_request(self, queue: WriteQueue) -> None:
        first = await append(queue, "a", max_backlog=1)
        assert await append(queue, "a", max_backlog=1) == first
        assert (await append(queue, "a", reply=b"second", max_backlog=1)).backlog == 1

    async def test_full_stream_accepts_again_after_an_acknowledgement(self, queue: WriteQueue) -> None:
        await append(queue, "a", max_backlog=1)
        await queue.acknowledge(as_written(await take(queue)))
        await append(queue, "b", max_backlog=1)
        assert ids_of(await take(queue)) == ["b"]

    async def test_refused_request_leaves_no_marker(self, redis: Redis, queue: WriteQueue) -> None:
        first = await appended(queue, "a")
        await append(queue, "b", max_backlog=1)
        assert await redis.hvals(queue.live_key) == [first.encode()]

    async def test_age_is_right_behind_an_entry_from_the_far_future(self, redis: Redis, queue: WriteQueue) -> None:
        await redis.xadd(queue.stream_key, {b"foreign": b"1"}, id=FAR_FUTURE)
        await append(queue, "a")
        _, entry = await take(queue)
        assert entry.entry_ms > 10**18 > await queue.now_ms() >= entry.first_ms

    async def test_only_acknowledged_entries_are_removed(self, redis: Redis, queue: WriteQueue) -> None:
        for request_id in ("a", "b", "c"):
            await append(queue, request_id)
        a, b, c = await take(queue)
        assert await queue.acknowledge(as_written([a, c])) == 2
        assert await state_of(queue) == (1, 1, 0)
        assert await redis.hvals(queue.live_key) == [b.entry_id.encode()]

    async def test_acknowledging_twice_does_nothing_the_second_time(self, queue: WriteQueue) -> None:
        await append(queue, "a")
        entries = await take(queue)
        assert await queue.acknowledge(as_written(entries)) == 1
        assert await queue.acknowledge(as_written(entries)) == 0

    async def test_acknowledging_an_entry_keeps_the_marker_of_a_later_one(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        # As a producer in another language might append, without the script.
        await redis.xadd(queue.stream_key, fields("a"), id="1-0")  # type: ignore[arg-type] # invariant
        second = await appended(queue, "a")
        first, _ = await take(queue)
        await queue.acknowledge(as_written([first]))
        assert await redis.hvals(queue.live_key) == [second.encode()]

    async def test_empty_stream_has_no_markers_even_of_lost_entries(self, redis: Redis, queue: WriteQueue) -> None:
        await append(queue, "lost")
        await redis.delete(queue.stream_key)
        await append(queue, "a")
        await queue.acknowledge(as_written(await take(queue)))
        assert not await redis.exists(queue.live_key)

    @pytest.mark.parametrize("request_id", ["a", "b"])
    @pytest.mark.parametrize("dies", [False, True])
    async def test_entry_that_got_the_id_of_a_lost_one_is_left(
        self, redis: Redis, queue: WriteQueue, request_id: str, dies: bool
    ) -> None:
        """Redis fails over and loses an entry that the drain holds, and its clock is behind the ids."""

        async def add(request_id: str, counted: bytes) -> None:
            entry: Any = {b"counted": counted, **fields(request_id)}
            await redis.xadd(queue.stream_key, entry, id="2-1")

        await add("a", b"1")
        [lost] = await take(queue)
        await redis.delete(queue.stream_key)
        await add(request_id, b"2")
        await take(queue)
        await (die(queue, lost) if dies else queue.acknowledge(as_written([lost])))
        assert await state_of(queue) == (1, 1, 0)
        [left] = await all_entries(queue)
        assert await queue.acknowledge(as_written([left])) == 1

    async def test_huge_entry_is_acknowledged_although_the_drain_does_not_hold_its_id(
        self, redis: Redis, name: str
    ) -> None:
        queue = WriteQueue(redis, queue_ref(name), 0, reader=redis, largest_entry=10_000)
        many = {str(number).encode(): b"x" for number in range(9_000)}
        await redis.xadd(queue.stream_key, many | fields("late"))  # type: ignore[arg-type] # invariant
        [entry] = await take(queue)
        assert entry.request_id == b""
        assert await queue.acknowledge(as_written([entry])) == 1

    async def test_entry_without_a_request_id_is_acknowledged(self, queue: WriteQueue) -> None:
        await queue.append_flush()
        assert await queue.acknowledge(as_written(await take(queue))) == 1

    async def test_foreign_entry_is_counted_as_appended_when_it_is_acknowledged(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        await redis.xadd(queue.stream_key, fields("a"))  # type: ignore[arg-type] # invariant
        await append(queue, "b")
        await queue.acknowledge(as_written(await take(queue)))
        assert (await queue.statistics()).counters == {"appended": 2, "written": 2}

    async def test_deaths_while_an_entry_is_written_alone_are_counted(self, redis: Redis, queue: WriteQueue) -> None:
        await append(queue, "a")
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
            await append(queue, request_id)
        assert await state_of(queue) == (3, 0, 0)
        [first] = await take(queue, count=1)
        assert await state_of(queue) == (3, 1, 0)
        await die(queue, first)
        assert await state_of(queue) == (2, 0, 1)
        assert (await queue.statistics()).counters == {"appended": 3, "rejected": 1}

    async def test_statistics_tell_the_age_of_the_oldest_entry(self, redis: Redis, queue: WriteQueue) -> None:
        ago = await queue.now_ms() - 90_000
        await redis.xadd(queue.stream_key, fields("a"), id=f"{ago}-0")  # type: ignore[arg-type] # invariant
        assert 90_000 <= (await queue.statistics()).oldest_ms < 120_000

    async def test_group_sees_entries_appended_before_it(self, queue: WriteQueue) -> None:
        await append(queue, "early")
        assert ids_of(await take(queue)) == ["early"]

    async def test_existing_group_is_left_as_it_is(self, queue: WriteQueue) -> None:
        await append(queue, "a")
        [entry] = await take(queue)
        assert await take(queue, after=entry.entry_id) == []

    async def test_reads_return_entries_in_order_and_in_pages(self, queue: WriteQueue) -> None:
        for request_id in ("a", "b", "c"):
            await append(queue, request_id)
        page = await take(queue, count=2)
        rest = await take(queue, after=page[-1].entry_id, count=2)
        assert ids_of(page + rest) == ["a", "b", "c"]
        assert await take(queue, after=rest[-1].entry_id) == []
        again = await redelivered(queue, count=2)
        assert ids_of(again + await redelivered(queue, after=again[-1].entry_id, count=2)) == ["a", "b", "c"]

    async def test_read_ends_once_it_has_the_bytes(self, queue: WriteQueue) -> None:
        for request_id in ("a", "b", "c"):
            await append(queue, request_id, b"x" * 1000)
        await queue.ensure_group()
        read = await queue.read_new(after="0", count=BACKLOG, max_bytes=1500)
        assert ids_of(read) == ["a", "b"]  # the second one goes beyond them, or a large one would never be read
        assert ids_of(await queue.read_delivered(after="0", count=BACKLOG, max_bytes=1)) == ["a"]
        assert ids_of(await queue.entries(after="0", count=BACKLOG, max_bytes=2500)) == ["a", "b", "c"]

    async def test_of_a_huge_entry_only_the_short_fields_are_read(self, redis: Redis, name: str) -> None:
        queue = WriteQueue(redis, queue_ref(name), 0, reader=redis, largest_entry=10_000)
        huge = fields("huge", b"x" * 100_000, reply=b"r" * (LONGEST_SHORT_FIELD - len(b"reply")))
        entry_id = (await queue.append(huge, max_backlog=BACKLOG)).entry_id
        await append(queue, "small")
        assert entry_id is not None
        reads = [await take(queue), await redelivered(queue), await all_entries(queue)]
        for entry in [entries[0] for entries in reads] + [await queue.entry(entry_id)]:
            assert entry is not None
            assert entry.size_bytes > 108_000
            assert set(entry.fields) == {b"counted", b"v", b"id", b"reply"}
        assert [ids_of(entries) for entries in reads] == [["huge", "small"]] * 3

    async def test_of_a_huge_entry_with_many_fields_few_are_read(self, redis: Redis, name: str) -> None:
        queue = WriteQueue(redis, queue_ref(name), 0, reader=redis, largest_entry=10_000)
        many = {str(number).encode(): b"x" for number in range(9_000)}
        await redis.xadd(queue.stream_key, many)  # type: ignore[arg-type] # its dict is invariant
        [entry] = await take(queue)
        assert (len(entry.fields), entry.size_bytes) == (50, sum(len(name) + 1 for name in many))

    async def test_two_drains_both_read_every_entry_in_order(self, queue: WriteQueue) -> None:
        for request_id in ("a", "b", "c"):
            await append(queue, request_id)
        [a] = await take(queue, count=1)  # by one drain, and the others by another one
        assert ids_of(await take(queue)) == ["a", "b", "c"]
        await append(queue, "d")
        assert ids_of(await take(queue, after=a.entry_id)) == ["b", "c", "d"]

    async def test_reading_again_counts_the_deliveries(self, redis: Redis, queue: WriteQueue) -> None:
        await append(queue, "a")
        [new] = await take(queue)
        deliveries = [(await redelivered(queue))[0].deliveries for _ in range(3)]
        assert [new.deliveries, *deliveries] == [0, 2, 3, 4]
        [pending] = await redis.xpending_range(queue.stream_key, GROUP, "-", "+", 1)
        assert (pending["consumer"], pending["times_delivered"]) == (CONSUMER.encode(), 4)

    async def test_entries_delivered_to_another_consumer_are_taken_over(self, redis: Redis, queue: WriteQueue) -> None:
        for request_id in ("a", "b"):
            await append(queue, request_id)
        await queue.ensure_group()
        await redis.xreadgroup(GROUP, "somebody", {queue.stream_key: ">"}, count=1)
        await take(queue)
        assert ids_of(await redelivered(queue)) == ["a", "b"]
        owners = await redis.xpending_range(queue.stream_key, GROUP, "-", "+", 10)
        assert [owner["consumer"] for owner in owners] == [CONSUMER.encode()] * 2

    async def test_entries_whose_consumer_was_deleted_are_read_in_their_place(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        for request_id in ("a", "b", "c"):
            await append(queue, request_id)
        await queue.ensure_group()
        await take(queue, count=1)
        await redis.xreadgroup(GROUP, "somebody", {queue.stream_key: ">"}, count=1)
        await redis.xgroup_delconsumer(queue.stream_key, GROUP, "somebody")
        await take(queue)
        assert [(entry.request_id, entry.deliveries) for entry in await redelivered(queue)] == [
            (b"a", 2),
            (b"b", 1),
            (b"c", 2),
        ]
        assert (await queue.statistics()).pending == 3

    async def test_entries_deleted_by_hand_are_not_pending_after_a_recovery(
        self, redis: Redis, queue: WriteQueue
    ) -> None:
        deleted = [await appended(queue, str(number)) for number in range(250)]  # more than one page of XPENDING
        await take(queue, count=1000)
        await append(queue, "new")
        await redis.xdel(queue.stream_key, *deleted[:100], *deleted[101:])
        assert ids_of(await redelivered(queue)) == ["100"]
        assert ids_of(await redelivered(queue, after=deleted[100])) == []
        assert await state_of(queue) == (2, 1, 0)

    async def test_unread_entries_are_not_recovered(self, queue: WriteQueue) -> None:
        assert await redelivered(queue) == []
        await append(queue, "a")
        assert await redelivered(queue) == []
        await queue.ensure_group()
        assert await redelivered(queue) == []

    async def test_looking_at_entries_does_not_deliver_them(self, queue: WriteQueue) -> None:
        entry_id = await appended(queue, "a")
        assert ids_of(await all_entries(queue)) == ["a"]
        assert [await queue.entry(entry_id)] == await all_entries(queue)
        assert await queue.entry("1-1") is None
        assert await state_of(queue) == (1, 0, 0)

    async def test_partitions_and_namespaces_are_separate(self, redis: Redis, name: str) -> None:
        one = WriteQueue(redis, queue_ref(name), 0)
        others = [WriteQueue(redis, queue_ref(name), 1), WriteQueue(redis, queue_ref(name, "staging"), 0)]
        await append(one, "a")
        assert [len(await take(queue)) for queue in (one, *others)] == [1, 0, 0]


class TestFakeRedis(StreamScripts):
    @pytest.fixture
    async def redis(self) -> AsyncIterator[Redis]:
        async with FakeAsyncRedis(protocol=2) as client:
            yield client


def test_keys_carry_the_namespace_and_share_a_cluster_slot() -> None:
    queue = WriteQueue(FakeAsyncRedis(), queue_ref("orders", "team{a}:b/c"), 3)
    prefix = "write-batcher:{team%7Ba%7D%3Ab%2Fc/orders/3}"
    names = ("requests", "live", "dead", "counters", "dead-ids", "alone", "held", "orders")
    assert queue.keys == [f"{prefix}:{name}" for name in names]


async def test_queue_without_a_reader_cannot_wait() -> None:
    async with FakeAsyncRedis(protocol=2) as client:
        queue = WriteQueue(client, queue_ref("orders"), 0)
        await queue.ensure_group()
        assert await queue.read_new(after="0", count=1, max_bytes=MAX_BYTES) == []
        with pytest.raises(TypeError, match="has no reader"):
            await queue.read_new(after="0", count=1, max_bytes=MAX_BYTES, block=timedelta(seconds=1))


async def test_unreachable_server_makes_the_queue_unavailable() -> None:
    async with FakeAsyncRedis(connected=False) as client:
        queue = WriteQueue(client, queue_ref("orders"), 0, reader=client)
        for call in (append(queue, "a"), queue.ensure_group(), queue.now_ms(), take(queue), queue.held()):
            with pytest.raises(QueueUnavailable):
                await call


def test_consumer_and_group_have_the_documented_names() -> None:
    assert (GROUP, CONSUMER) == ("batcher", "drain")
