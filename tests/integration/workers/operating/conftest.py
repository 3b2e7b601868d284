"""The queue that these tests operate, with a drain and commands that react quickly."""

from datetime import timedelta

import pytest
from redis.asyncio import Redis
from temporalio.client import Client

from tests.support.operated_queue import QUICK, OperatedQueue
from tests.support.redis_kinds import AnyRedis
from write_batcher.activities.drain import loop as loop_module, take, watch
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workers.operating import control


@pytest.fixture(autouse=True)
def _quick_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take, "LONGEST_BLOCK", QUICK)
    monkeypatch.setattr(watch, "BEAT_EVERY", QUICK)
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    monkeypatch.setattr(control, "LOOK_EVERY", timedelta(milliseconds=20))


@pytest.fixture
def queue(
    client: Client, redis: Redis, redis_server: AnyRedis, temporal_server: TemporalServer, name: str
) -> OperatedQueue:
    environment = {
        "TEMPORAL_ADDRESS": temporal_server.address,
        "WRITE_BATCHER_REDIS_URL": redis_server.url,
        "WRITE_BATCHER_QUEUE": name,
        "WRITE_BATCHER_MAX_ITEMS": "10",
    }
    return OperatedQueue(client=client, redis=redis, redis_url=redis_server.url, name=name, environment=environment)
