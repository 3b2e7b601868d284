"""The turns of the drains of a queue. `integration/queue/test_scripts.py` runs the suite on real servers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from tests.support.partitions import queue_ref
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.target_state import TargetState

SLOW = 0.1  # per second: how long the test itself takes hardly counts


class TurnScript:
    @pytest.fixture
    def drains(self, redis: Redis, name: str) -> list[WriteQueue]:
        return [WriteQueue(redis, queue_ref(name), number) for number in range(3)]

    async def test_first_turn_comes_at_once_and_the_others_one_after_the_other(self, drains: list[WriteQueue]) -> None:
        waits = [await drain.next_turn(pace=SLOW, max_rate=None, asks=True, rows=0) for drain in drains]
        assert waits == [0.0, pytest.approx(10, abs=2), pytest.approx(20, abs=2)]

    async def test_who_does_not_ask_takes_no_turn(self, drains: list[WriteQueue]) -> None:
        for drain in drains:
            assert await drain.next_turn(pace=SLOW, max_rate=None, asks=False, rows=100) == 0.0
        assert await drains[0].next_turn(pace=SLOW, max_rate=None, asks=True, rows=0) == 0.0

    async def test_rows_are_paid_for_by_the_next_turn(self, drains: list[WriteQueue]) -> None:
        writer, other, _ = drains
        assert await writer.next_turn(pace=None, max_rate=SLOW, asks=True, rows=0) == 0.0
        await writer.next_turn(pace=None, max_rate=SLOW, asks=False, rows=3)
        assert await other.next_turn(pace=None, max_rate=SLOW, asks=True, rows=0) == pytest.approx(30, abs=2)

    async def test_slower_of_pace_and_rate_counts(self, drains: list[WriteQueue]) -> None:
        first, second, third = drains
        await first.next_turn(pace=SLOW, max_rate=SLOW, asks=True, rows=0)
        assert await second.next_turn(pace=SLOW, max_rate=SLOW, asks=True, rows=5) == pytest.approx(50, abs=2)
        assert await third.next_turn(pace=SLOW, max_rate=SLOW, asks=True, rows=0) == pytest.approx(60, abs=2)

    async def test_nobody_waits_by_a_slower_pace_that_is_no_longer_meant(self, drains: list[WriteQueue]) -> None:
        for drain in drains:
            await drain.next_turn(pace=1 / 60, max_rate=1 / 60, asks=True, rows=10)
        assert await drains[0].next_turn(pace=10.0, max_rate=100.0, asks=True, rows=0) <= 1.0

    async def test_no_turn_is_saved_up(self, drains: list[WriteQueue]) -> None:
        for _ in range(20):
            await drains[0].next_turn(pace=1000.0, max_rate=None, asks=True, rows=0)
        assert await drains[0].next_turn(pace=1000.0, max_rate=None, asks=True, rows=0) <= 0.021

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
        await drains[0].next_turn(pace=SLOW, max_rate=None, asks=True, rows=0)
        await ContractStore(redis, queue_ref(name)).forget()
        assert await drains[1].next_turn(pace=SLOW, max_rate=None, asks=True, rows=0) == 0.0


class TestFakeRedis(TurnScript):
    @pytest.fixture
    async def redis(self) -> AsyncIterator[Redis]:
        async with FakeAsyncRedis(protocol=2) as client:
            yield client
