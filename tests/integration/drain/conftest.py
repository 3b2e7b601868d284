"""A stage per test, whose drain reacts within milliseconds."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from tests.support.drain_stage import Stage, stage_on
from tests.support.redis_kinds import AnyRedis
from write_batcher.activities.drain import confirm, hold, housekeeping, operators, outage, read, watch
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.queue.redis_client import connect


@pytest.fixture(autouse=True)
def _quick_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = timedelta(milliseconds=20)
    monkeypatch.setattr(read, "LONGEST_BLOCK", timedelta(milliseconds=50))
    for stage_module in (read, outage, confirm, hold):
        monkeypatch.setattr(stage_module, "BACKOFF", Backoff(0.01, 0.05))
    monkeypatch.setattr(outage, "ASK_EVERY_S", (0.01, 0.02))
    monkeypatch.setattr(hold, "TICK_S", 0.01)
    monkeypatch.setattr(operators, "LOOK_EVERY", soon)
    monkeypatch.setattr(housekeeping, "CONTRACT_EVERY", soon)
    monkeypatch.setattr(watch, "BEAT_EVERY", soon)


@pytest.fixture
async def stage(redis_server: AnyRedis, redis: Redis, name: str) -> AsyncIterator[Stage]:
    async with connect(redis_server.url, longest_block=read.LONGEST_BLOCK) as reader:
        yield stage_on(redis, reader, name)


@pytest.fixture
async def breakable(own_server: AnyRedis, name: str) -> AsyncIterator[tuple[Stage, AnyRedis]]:
    """A stage on a server that the test may break."""
    async with (
        connect(own_server.url) as redis,
        connect(own_server.url, longest_block=read.LONGEST_BLOCK) as reader,
    ):
        yield stage_on(redis, reader, name), own_server
