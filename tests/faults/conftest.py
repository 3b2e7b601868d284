"""Servers of the fault tests' own, with their data on disk, so that they can be killed and come back."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.faults.fault_arena import Arena, arena
from tests.support.target_databases import Database, PostgresDatabase, SqliteDatabase
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.temporal_server import TemporalServer

FAULTS = Path(__file__).parent
LIMIT_S = 300  # of one test; its own deadlines tell more about what did not happen, and must come first

OpenArena = Callable[..., AbstractAsyncContextManager[Arena]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Most fault tests take ten seconds and more: they are left to `make faults`."""
    for item in items:
        if FAULTS in item.path.parents:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
            if item.get_closest_marker("fast") is None:
                item.add_marker("thorough")


@pytest.fixture(scope="session")
async def kept_temporal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TemporalServer]:
    async with TemporalServer(tmp_path_factory.mktemp("temporal")) as server:
        yield server


@pytest.fixture(scope="session")
async def kept_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
async def kept_postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    async with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def sqlite_target(tmp_path: Path) -> Database:
    return SqliteDatabase(tmp_path)


@pytest.fixture
def postgres_target(kept_postgres: PostgresServer) -> PostgresDatabase:
    return PostgresDatabase.fresh(kept_postgres)


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest) -> Database:
    """A fresh target database of each kind."""
    database: Database = request.getfixturevalue(f"{request.param}_target")
    return database


@pytest.fixture
def confirm_by(target: Database) -> ConfirmBy:
    """Each mode with one of the databases: what breaks depends on one of the two, not on the pair."""
    return ConfirmBy.SIGNAL if isinstance(target, SqliteDatabase) else ConfirmBy.COMPLETION


@pytest.fixture
def open_arena(name: str, tmp_path: Path, kept_temporal: TemporalServer, kept_redis: RedisServer) -> OpenArena:
    """`open_arena(database, ...)` opens an arena with these settings."""

    def opened(
        database: Database,
        *,
        temporal_server: TemporalServer = kept_temporal,
        redis_server: RedisServer = kept_redis,
        **settings: object,
    ) -> AbstractAsyncContextManager[Arena]:
        return arena(
            name=name,
            folder=tmp_path,
            temporal_server=temporal_server,
            redis_server=redis_server,
            database=database,
            **settings,
        )

    return opened
