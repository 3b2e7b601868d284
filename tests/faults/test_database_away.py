"""The database is killed, locked, silent, or answers into the void: the batch is held, and written once."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena, Worker
from tests.support.proxy import Network
from tests.support.target_databases import Database, PostgresDatabase, SqliteDatabase
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.server import Server

CALLERS = 12
SEEN_TO_WAIT_S = 10  # longer than the heartbeat timeout of the tests' workers, and than any wait of a healthy batch
PATIENCE = timedelta(seconds=60)  # of callers; after half of it they submit anew
LONG_S = 90  # longer than the limits of a write, of its sink and of the drain's stage


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


async def test_postgresql_that_refuses_connections_has_its_batch_held(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        arena.database_proxy.become(Network.REFUSING)
        await arena.start(CALLERS)
        await eventually(lambda: batcher.says("is held"), within_s=60)
        arena.database_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert drains(batcher) == 1


@pytest.mark.parametrize("network", [Network.SILENT, Network.DEAF])
async def test_postgresql_that_does_not_answer_for_a_while_is_waited_for_by_the_same_drain(
    open_arena: OpenArena, postgres_target: PostgresDatabase, network: Network
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        arena.database_proxy.become(network)
        await arena.start(CALLERS)
        await _waits(arena, SEEN_TO_WAIT_S)
        assert bool(arena.database_proxy.swallowed) is (network is Network.DEAF)
        arena.database_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert drains(batcher) == 1


async def test_postgresql_that_is_silent_beyond_every_limit_fails_nobody(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        arena.database_proxy.become(Network.SILENT)
        await arena.start(CALLERS)
        await _waits(arena, LONG_S)
        assert batcher.says("is held")
        arena.database_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert drains(batcher) == 1


async def test_postgresql_that_hangs_is_waited_for(open_arena: OpenArena, postgres_target: PostgresDatabase) -> None:
    async with open_arena(postgres_target) as arena:
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        with _hanging(postgres_target.server):
            await arena.start(CALLERS)
            await _waits(arena, SEEN_TO_WAIT_S)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert drains(batcher) == 1


async def test_database_that_somebody_locks_for_long_does_not_multiply_the_backlog(
    open_arena: OpenArena, target: Database
) -> None:
    """By signal. An activity that submits anew has another id, to be completed by: its entry is another one."""
    async with open_arena(target, confirm_timeout=PATIENCE) as arena:
        _, batcher = await arena.run_both()
        with locked(target):
            before = await _lookups(arena)
            await arena.start(CALLERS)

            async def have_submitted_twice() -> bool:
                return await _lookups(arena) >= before + 2 * CALLERS

            await eventually(have_submitted_twice, within_s=90)
            assert batcher.says("is held")
            assert await arena.backlog() == CALLERS
        assert (await arena.audit()).completed == CALLERS


async def _lookups(arena: Arena) -> int:
    """Every append looks for the same request in a hash; acknowledgements do too, but there are none in an outage."""
    statistics: dict[str, Any] = await arena.redis.info("commandstats")
    return int(statistics.get("cmdstat_hget", {"calls": 0})["calls"])


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Somebody else keeps everybody from writing to the table."""
    if isinstance(database, PostgresDatabase):
        with database.connect() as other, other.transaction():
            other.execute("LOCK TABLE main_writes IN ACCESS EXCLUSIVE MODE")
            yield
    elif isinstance(database, SqliteDatabase):
        with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")


def drains(worker: Worker) -> int:
    """How many drains this worker has started."""
    return sum("drain of" in line and line.endswith("starts") for line in worker.log.read_text().splitlines())


async def _waits(arena: Arena, seconds: float) -> None:
    """Return when an entry has been in the stream for so long."""

    async def is_old() -> bool:
        return (await arena.queue.statistics()).oldest_ms > seconds * 1000

    await eventually(is_old, within_s=seconds + 60)


@contextmanager
def _hanging(server: Server) -> Iterator[None]:
    """PostgreSQL has a process for each connection: none of them answers."""
    stopped: list[int] = []
    try:
        for pid in _with_children(server.pid):
            os.kill(pid, signal.SIGSTOP)  # the parent first, so that it starts no more of them
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
