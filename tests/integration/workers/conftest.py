"""Settings for the workers of a queue that no other test uses, and the sink they write to."""

from datetime import timedelta

import pytest

from tests.support.fakes import MemorySink
from tests.support.redis_kinds import AnyRedis
from write_batcher.activities.drain import read
from write_batcher.config import Settings, load_settings

QUICK = timedelta(milliseconds=100)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def quick_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain notices that it should stop only when its read returns."""
    monkeypatch.setattr(read, "LONGEST_BLOCK", QUICK)


@pytest.fixture
def settings(redis_server: AnyRedis, name: str) -> Settings:
    return load_settings(
        redis_url=redis_server.url,
        queue=name,
        main_task_queue=f"{name}-main",
        batcher_task_queue=f"{name}-batcher",
        max_wait=timedelta(milliseconds=200),
    )
