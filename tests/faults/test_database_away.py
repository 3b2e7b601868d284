"""The database is killed, locked, silent, or answers into the void: the batch is held, and written once."""

import sqlite3
from contextlib import closing

import pytest

from tests.databases import PostgresDatabase, SqliteDatabase
from tests.faults.conftest import OpenArena
from tests.faults.test_redis_away import frozen
from tests.proxy import Network
from tests.support import eventually
from write_batcher.models import ConfirmBy

CALLERS = 12


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_postgresql_that_is_killed_fails_nobody(
    open_arena: OpenArena, postgres_target: PostgresDatabase, confirm_by: ConfirmBy
) -> None:
    async with open_arena(postgres_target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        await postgres_target.server.kill()
        await arena.start(CALLERS)
        await eventually(lambda: batcher.says("is held"), within_s=30)
        await postgres_target.server.start()
        assert (await arena.audit()).completed == 2 * CALLERS


@pytest.mark.fast
async def test_commit_whose_answer_is_lost_is_found_in_the_ledger(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        await arena.run_both()
        await arena.start(1)
        await arena.written()
        arena.database_proxy.loses_reply_to = b"COMMIT\0"  # no longer one of the transactions at the start
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == CALLERS + 1
        assert arena.database_proxy.swallowed
        assert (await arena.queue.statistics()).counters["duplicate"] > 0


@pytest.mark.parametrize("network", [Network.REFUSING, Network.SILENT, Network.DEAF])
async def test_postgresql_that_cannot_be_reached_for_a_while_fails_nobody(
    open_arena: OpenArena, postgres_target: PostgresDatabase, network: Network
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        arena.database_proxy.become(network)
        await arena.start(CALLERS)
        await arena.appended(2 * CALLERS)
        arena.database_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_postgresql_that_hangs_is_waited_for(open_arena: OpenArena, postgres_target: PostgresDatabase) -> None:
    async with open_arena(postgres_target) as arena:
        await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        with frozen(postgres_target.server):
            await arena.start(CALLERS)
            await arena.appended(2 * CALLERS)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_sqlite_that_somebody_locks_for_long_does_not_multiply_the_backlog(
    open_arena: OpenArena, sqlite_target: SqliteDatabase
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both()
        with closing(sqlite3.connect(sqlite_target.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await arena.start(CALLERS)
            await arena.queued(CALLERS)
            await eventually(lambda: batcher.says("is held"), within_s=60)
            assert await arena.backlog() == CALLERS
            other.execute("ROLLBACK")
        assert (await arena.audit()).completed == CALLERS


async def test_postgresql_table_that_somebody_locks_is_waited_for(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target) as arena:
        await arena.run_both()
        with postgres_target.connect() as other, other.transaction():
            other.execute("LOCK TABLE main_writes IN ACCESS EXCLUSIVE MODE")
            await arena.start(CALLERS)
            await arena.appended(CALLERS)
        assert (await arena.audit()).completed == CALLERS
