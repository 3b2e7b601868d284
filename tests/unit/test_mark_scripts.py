"""Marks of held entries and orders of operators. `integration/queue/test_scripts.py` runs the suite on real servers."""

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from tests.support.partitions import append, as_written, die, queue_ref, take
from write_batcher.queue.marks import MAX_REASON, GivenOrder, HeldMark, Order
from write_batcher.queue.stream import WriteQueue

MARK = HeldMark(request_id="a", reason="no table 'orders'\n \ud800", since_ms=1_700_000_000_000)


class MarkScripts:
    @pytest.fixture
    def queue(self, redis: Redis, name: str) -> WriteQueue:
        return WriteQueue(redis, queue_ref(name), 0, reader=redis)

    async def test_held_entry_is_marked_until_it_is_unmarked(self, queue: WriteQueue) -> None:
        await append(queue, "a")
        [entry] = await take(queue)
        await queue.mark_held({entry.entry_id: MARK})
        assert await queue.held() == {entry.entry_id: MARK}
        assert (await queue.statistics()).held == 1
        await queue.unmark_held([entry.entry_id])
        assert await queue.held() == {}

    async def test_order_is_there_until_it_is_withdrawn(self, queue: WriteQueue) -> None:
        await append(queue, "a")
        [entry] = await take(queue)
        assert await queue.give_order(entry.entry_id, Order.RELEASE)
        assert await queue.give_order(entry.entry_id, Order.REJECT, "a test")
        assert await queue.orders() == {entry.entry_id: GivenOrder(order=Order.REJECT, reason="a test")}
        await queue.withdraw_orders([entry.entry_id])
        assert await queue.orders() == {}

    async def test_entry_that_is_gone_gets_neither_mark_nor_order(self, queue: WriteQueue) -> None:
        await append(queue, "a")
        await queue.acknowledge(as_written(await take(queue)))
        await queue.mark_held({"1-1": MARK})
        assert not await queue.give_order("1-1", Order.REJECT)
        assert (await queue.held(), await queue.orders()) == ({}, {})

    @pytest.mark.parametrize("last", [True, False])
    @pytest.mark.parametrize("dies", [True, False])
    async def test_mark_and_order_go_with_their_entry(self, queue: WriteQueue, last: bool, dies: bool) -> None:
        await append(queue, "a")
        [entry] = await take(queue)
        if not last:
            await append(queue, "b")
        await queue.mark_held({entry.entry_id: MARK})
        await queue.give_order(entry.entry_id, Order.REJECT)
        await (die(queue, entry) if dies else queue.acknowledge(as_written([entry])))
        assert (await queue.held(), await queue.orders()) == ({}, {})

    async def test_nothing_is_asked_for_no_entries(self, queue: WriteQueue) -> None:
        await queue.mark_held({})
        await queue.unmark_held([])
        await queue.withdraw_orders([])

    async def test_long_reason_is_cut(self, queue: WriteQueue) -> None:
        await append(queue, "a")
        [entry] = await take(queue)
        await queue.mark_held({entry.entry_id: HeldMark(request_id="a", reason="x" * 100_000, since_ms=1)})
        assert len((await queue.held())[entry.entry_id].reason) == MAX_REASON

    @pytest.mark.parametrize(
        "text", [b"\xff", b"[", b"[]", b"{}", b'{"order": "burn", "reason": ""}', b'{"request_id": 1}', b"[" * 100_000]
    )
    async def test_marks_that_nobody_can_read_are_ignored(self, redis: Redis, queue: WriteQueue, text: bytes) -> None:
        for key in (queue.held_key, queue.orders_key):
            await redis.hset(key, mapping={b"1-0": text, b"\xff": b"{}"})
        assert (await queue.held(), await queue.orders()) == ({}, {})


class TestFakeRedis(MarkScripts):
    @pytest.fixture
    async def redis(self) -> AsyncIterator[Redis]:
        async with FakeAsyncRedis(protocol=2) as client:
            yield client
