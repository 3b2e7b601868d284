"""A queue is written to the database of its contract only, for its own namespace, by whoever knows its tables."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import OTHER_NAMESPACE, RESUBMITTING, Arena
from tests.support.target_databases import Database, PostgresDatabase, SqliteDatabase
from tests.support.waiting import eventually
from write_batcher.cli.running import EXIT_USAGE

CALLERS = 12
REFUSED_WITHIN_S = 60
BOTH_TABLES = ("main_writes", "orders")


@pytest.fixture
def other_target(tmp_path: Path) -> Database:
    folder = tmp_path / "another folder"
    folder.mkdir()
    return SqliteDatabase(folder)


@pytest.mark.fast
async def test_batcher_with_another_database_is_refused_while_the_queue_goes_on(
    open_arena: OpenArena, sqlite_target: Database, other_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        await arena.start_callers(CALLERS)
        await _refuse(arena, other_target)
        await arena.start_callers(CALLERS)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert other_target.count("main_writes") == 0


async def test_batcher_with_another_database_is_refused_after_redis_lost_the_contract(
    open_arena: OpenArena, sqlite_target: Database, other_target: Database
) -> None:
    """It would be the first to announce anything, and callers submit their requests again, some of them written."""
    async with open_arena(sqlite_target, confirm_timeout=RESUBMITTING) as arena:
        _, batcher = await arena.start_workers("--crash", "after_commit")
        await arena.start_callers(CALLERS)
        await batcher.exited()
        await arena.redis.flushall()
        await _refuse(arena, other_target)
        assert await arena.contract() is None
        await arena.start_worker("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS
        assert other_target.count("main_writes") == 0


async def test_two_namespaces_with_one_queue_name_on_one_redis_never_meet(
    open_arena: OpenArena, sqlite_target: Database, other_target: Database
) -> None:
    async with (
        open_arena(sqlite_target) as production,
        open_arena(other_target, namespace=OTHER_NAMESPACE) as staging,
    ):
        for arena in (production, staging):
            await arena.start_workers()
        await production.pause()
        for arena in (production, staging):  # with the same workflow ids
            await arena.start_callers(CALLERS)
        await production.until_queued(CALLERS)
        assert (await staging.audit()).completed == CALLERS
        assert (await production.backlog(), production.rows()) == (CALLERS, 0)
        await production.resume()
        assert (await production.audit()).completed == CALLERS
        assert staging.rows() == CALLERS


async def test_batcher_with_fewer_tables_leaves_the_queue_to_one_that_knows_them(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target, tables=BOTH_TABLES) as arena:
        _, knowing = await arena.start_workers()
        lacking = await arena.start_worker("batcher", tables=("orders",))
        await eventually(lambda: lacking.logged("batcher worker:"), within_s=60)
        await knowing.kill()

        async def has_ended_its_drain() -> bool:
            batcher = await arena.client.get_workflow_handle(arena.batcher_workflow_id).describe()
            pending = batcher.raw_description.pending_activities
            return any("does not know the tables main_writes" in one.last_failure.message for one in pending)

        await eventually(has_ended_its_drain, within_s=60)
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        await arena.start_worker("batcher")
        assert (await arena.audit()).completed == CALLERS
        assert not lacking.logged("batch ")
        assert await arena.has_dead_letters(0)


async def test_database_that_cannot_hold_every_text_is_refused(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    postgres_target.execute("DROP DATABASE IF EXISTS latin")
    postgres_target.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    async with open_arena(PostgresDatabase(postgres_target.server, "latin")) as arena:
        batcher = await arena.start_worker("batcher")
        async with asyncio.timeout(REFUSED_WITHIN_S):
            assert await batcher.exited() == EXIT_USAGE
        assert batcher.logged("has the encoding LATIN1, which cannot hold every text")
        assert await arena.contract() is None


async def _refuse(arena: Arena, target: Database) -> None:
    """Start a batcher for another database, which names both of them and ends."""
    stranger = await arena.start_worker("batcher", database_url=target.url)
    async with asyncio.timeout(REFUSED_WITHIN_S):
        assert await stranger.exited() == EXIT_USAGE
    for database in (arena.database, target):
        [(sink_id,)] = database.query("SELECT value FROM write_batcher_meta WHERE name = 'sink_id'")
        assert stranger.logged(sink_id)
