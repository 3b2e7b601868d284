"""The turns of the drains of a queue. `integration/queue/test_scripts.py` runs the suite on real servers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from tests.support.partitions import queue_ref
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.keys import turns_key
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.target_state import TargetState

SLOW = 0.1  # per second: how long the test itself takes hardly counts


async def turn(
    drain: WriteQueue, pace: float | None, max_rate: float | None, *, asks: bool = True, rows: int = 0
) -> float:
    return await drain.next_turn(pace=pace, max_rate=max_rate, partitions=3, asks=asks, rows=rows)


class TurnScript:
    @pytest.fixture
    def drains(self, redis: Redis, name: str) -> list[WriteQueue]:
        return [WriteQueue(redis, queue_ref(name), number) for number in range(3)]

    async def test_first_turn_comes_at_once_and_the_others_one_after_the_other(self, drains: list[WriteQueue]) -> None:
        waits = [await turn(drain, SLOW, None) for drain in drains]
        assert waits == [0.0, pytest.approx(10, abs=2), pytest.approx(20, abs=2)]

    async def test_who_does_not_ask_takes_no_turn(self, drains: list[WriteQueue]) -> None:
        for drain in drains:
            assert await turn(drain, SLOW, None, asks=False, rows=100) == 0.0
        assert await turn(drains[0], SLOW, None) == 0.0

    async def test_rows_are_paid_for_by_the_next_turn(self, drains: list[WriteQueue]) -> None:
        writer, other, _ = drains
        assert await turn(writer, None, SLOW) == 0.0
        await turn(writer, None, SLOW, asks=False, rows=3)
        assert await turn(other, None, SLOW) == pytest.approx(30, abs=2)

    async def test_slower_of_pace_and_rate_counts(self, drains: list[WriteQueue]) -> None:
        first, second, third = drains
        await turn(first, SLOW, SLOW)
        assert await turn(second, SLOW, SLOW, rows=2) == pytest.approx(20, abs=2)
        assert await turn(third, SLOW, SLOW) == pytest.approx(30, abs=2)

    async def test_nobody_waits_by_a_slower_pace_that_is_no_longer_meant(self, drains: list[WriteQueue]) -> None:
        for drain in drains:
            await turn(drain, 1 / 60, 1 / 60, rows=10)
        assert await turn(drains[0], 10.0, 100.0) <= 1.0

    async def test_clock_that_is_set_back_keeps_nobody_waiting(
        self, redis: Redis, name: str, drains: list[WriteQueue]
    ) -> None:
        await turn(drains[0], SLOW, SLOW, rows=1)
        [later] = await redis.hmget(turns_key(queue_ref(name)), "turn_us")
        far = int(later or 0) + 3_600_000_000
        await redis.hset(turns_key(queue_ref(name)), mapping={"turn_us": far, "rows_us": far})
        assert await turn(drains[1], SLOW, SLOW) <= 31

    async def test_no_turn_is_saved_up(self, drains: list[WriteQueue]) -> None:
        for _ in range(20):
            await turn(drains[0], 1000.0, None)
        assert await turn(drains[0], 1000.0, None) <= 0.021

    async def test_one_drain_after_the_other_tries_a_target_that_is_away(self, drains: list[WriteQueue]) -> None:
        lease = timedelta(minutes=1)
        first, second, third = drains
        assert [await drain.may_probe(lease) for drain in drains] == [True, False, False]
        await first.note_target(TargetState.AWAY, lease)
        assert [await drain.may_probe(lease) for drain in drains] == [False, False, False]
        await first.note_target(TargetState.AWAY, timedelta(milliseconds=1))
        await asyncio.sleep(0.01)
        assert [await drain.may_probe(lease) for drain in (second, third)] == [True, False]
        await second.note_target(TargetState.BACK, lease)
        assert [await drain.may_probe(lease) for drain in drains] == [True, True, True]

    async def test_moved_queue_forgets_its_turns(self, redis: Redis, name: str, drains: list[WriteQueue]) -> None:
        await turn(drains[0], SLOW, None)
        await ContractStore(redis, queue_ref(name)).forget()
        assert await turn(drains[1], SLOW, None) == 0.0


class TestFakeRedis(TurnScript):
    @pytest.fixture
    async def redis(self) -> AsyncIterator[Redis]:
        async with FakeAsyncRedis(protocol=2) as client:
            yield client
