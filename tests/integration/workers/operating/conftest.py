"""The queue that these tests operate, with a drain and commands that react quickly."""

from datetime import timedelta

import pytest
from redis.asyncio import Redis
from temporalio.client import Client

from tests.support.operated_queue import QUICK, OperatedQueue
from tests.support.redis_kinds import AnyRedis
from write_batcher.activities.drain import housekeeping, operators, read, watch
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workers.operating import control, given_orders


@pytest.fixture(autouse=True)
def _quick_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "LONGEST_BLOCK", QUICK)
    monkeypatch.setattr(watch, "BEAT_EVERY", QUICK)
    monkeypatch.setattr(housekeeping, "CONTRACT_EVERY", QUICK)
    monkeypatch.setattr(operators, "LOOK_EVERY", QUICK)
    monkeypatch.setattr(control, "LOOK_EVERY", timedelta(milliseconds=20))
    monkeypatch.setattr(given_orders, "LOOK_EVERY", timedelta(milliseconds=20))


@pytest.fixture
def queue(
    client: Client, redis: Redis, redis_server: AnyRedis, temporal_server: TemporalServer, name: str
) -> OperatedQueue:
    environment = {
        "TEMPORAL_ADDRESS": temporal_server.address,
        "WRITE_BATCHER_REDIS_URL": redis_server.url,
        "WRITE_BATCHER_QUEUE": name,
    }
    return OperatedQueue(client=client, redis=redis, redis_url=redis_server.url, name=name, environment=environment)
