"""A stage per test, whose drain reacts within milliseconds."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from tests.support.drain_stage import Stage, stage_on
from tests.support.redis_kinds import AnyRedis
from write_batcher.activities.drain import confirm, loop, take, watch, write
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.queue.redis_client import connect


@pytest.fixture(autouse=True)
def _quick_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take, "LONGEST_BLOCK", timedelta(milliseconds=50))
    for stage_module in (take, write, confirm):
        monkeypatch.setattr(stage_module, "BACKOFF", Backoff(0.01, 0.05))
    monkeypatch.setattr(take, "DECODE_AGAIN_AFTER", timedelta(milliseconds=100))
    monkeypatch.setattr(loop, "PARTITIONS_EVERY", timedelta(milliseconds=20))
    monkeypatch.setattr(watch, "BEAT_EVERY", timedelta(milliseconds=20))


@pytest.fixture
async def stage(redis_server: AnyRedis, redis: Redis, name: str) -> AsyncIterator[Stage]:
    async with connect(redis_server.url, longest_block=take.LONGEST_BLOCK) as reader:
        yield stage_on(redis, reader, name)


@pytest.fixture
async def breakable(own_server: AnyRedis, name: str) -> AsyncIterator[tuple[Stage, AnyRedis]]:
    """A stage on a server that the test may break."""
    async with (
        connect(own_server.url) as redis,
        connect(own_server.url, longest_block=take.LONGEST_BLOCK) as reader,
    ):
        yield stage_on(redis, reader, name), own_server
