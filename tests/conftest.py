"""Real servers for the whole session, and names that no other test uses."""

import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis
from temporalio.client import Client

from tests.support.order_callers import Stack, stacked
from tests.support.redis_kinds import AnyRedis, RedisKind, redis_of
from tests.support.target_databases import NO_SYNC, Database, PostgresDatabase, SqliteDatabase
from write_batcher.activities.drain import read
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.temporal_server import TemporalServer

# A shell starts background jobs with Ctrl-C ignored, and the commands that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a machine that is shared, any input may be slow to generate or to process now and then.
hypothesis.settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared machine")

TIME_SKIPPING = ("--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--redis",
        type=RedisKind,
        choices=list(RedisKind),
        default=RedisKind.VALKEY,
        help="the kind of Redis that the integration tests run on",
    )
    parser.addoption("--redis-only", action="store_true", help="run only the tests that use that Redis")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--redis-only"):
        on_redis = [item for item in items if "redis_kind" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=list(set(items).difference(on_redis)))
        items[:] = on_redis


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit at once, because a process that used temporalio may abort in Python's own exit (sdk-python#300)."""
    status = getattr(config, "exit_status", None)
    if status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.exit_status = int(exitstatus)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
async def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TemporalServer]:
    """A dev server with time skipping, in memory."""
    folder = tmp_path_factory.mktemp("temporal")
    async with TemporalServer(folder, in_memory=True, extra=TIME_SKIPPING) as server:
        yield server


@pytest.fixture(scope="session")
def redis_kind(request: pytest.FixtureRequest) -> RedisKind:
    kind: RedisKind = request.config.getoption("--redis")
    return kind


@pytest.fixture(scope="session")
async def redis_server(redis_kind: RedisKind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AnyRedis]:
    async with redis_of(redis_kind, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def own_server(redis_kind: RedisKind, tmp_path: Path) -> AsyncIterator[AnyRedis]:
    """A Redis server that the test may break."""
    async with redis_of(redis_kind, tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    async with PostgresServer(tmp_path_factory.mktemp("postgres"), extra=NO_SYNC) as server:
        yield server


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(tmp_path)


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresDatabase:
    return PostgresDatabase.fresh(postgres_server)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """A fresh target database: tests that use it run on each kind."""
    database: Database = request.getfixturevalue(request.param)
    return database


@pytest.fixture
async def redis(redis_server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(redis_server.url) as client:
        yield client


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Unique per test: for queues, task queues and workflow ids."""
    return f"{request.node.originalname[:30]}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'target.db'}"


@pytest.fixture
async def stack(
    client: Client, name: str, redis: Redis, redis_server: AnyRedis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stack]:
    """A queue with a batcher worker; nothing is drained until a test says so."""
    monkeypatch.setattr(read, "LONGEST_BLOCK", timedelta(milliseconds=100))  # so that the drain notices a stop
    async with stacked(client, name, redis, redis_server) as stack:
        yield stack
