"""Servers for the fault tests alone, with their data on disk, so that they can be killed and started again."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fault_arena import OTHER_NAMESPACE, Arena, arena
from tests.support.target_databases import Database, PostgresDatabase, SqliteDatabase
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.temporal_server import TemporalServer

FAULTS = Path(__file__).parent
TEST_TIMEOUT_S = 300  # above all deadlines inside a test, whose messages say more about what did not happen

OpenArena = Callable[..., AbstractAsyncContextManager[Arena]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but the `fast` fault tests `thorough`: most take ten seconds and more, too long for `make test`."""
    for item in items:
        if FAULTS in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
            if item.get_closest_marker("fast") is None:
                item.add_marker("thorough")


@pytest.fixture(scope="session")
async def kept_temporal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TemporalServer]:
    async with TemporalServer(tmp_path_factory.mktemp("temporal"), extra=("--namespace", OTHER_NAMESPACE)) as server:
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
    """Test each mode with one database only: a failure depends on the mode or on the database, not on the pair."""
    return ConfirmBy.SIGNAL if isinstance(target, SqliteDatabase) else ConfirmBy.COMPLETION


@pytest.fixture
def open_arena(name: str, tmp_path: Path, kept_temporal: TemporalServer, kept_redis: RedisServer) -> OpenArena:
    """Open an arena on the session's servers: `open_arena(database, max_items=100, ...)`. All of a test have one name,
    and so the same queue, unless their namespaces differ.
    """

    def opened(
        database: Database,
        *,
        temporal_server: TemporalServer = kept_temporal,
        redis_server: RedisServer = kept_redis,
        **settings: Any,
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
