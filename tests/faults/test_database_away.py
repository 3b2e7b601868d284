"""The database is killed, frozen, locked, silent, or its replies are lost: the batch is held, and written once."""

from datetime import timedelta
from typing import Any

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena
from tests.faults.outages import frozen, locked
from tests.support.proxy import Network
from tests.support.target_databases import Database, PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy

CALLERS = 12
SHORT_OUTAGE_S = 10  # longer than the workers' heartbeat timeout here, and than a healthy batch ever waits
LONG_OUTAGE_S = 90  # longer than the limits of a write, of its sink and of the drain's stage
RESUBMITTING_LATE = timedelta(seconds=60)  # callers submit again after half of it


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_killed_postgresql_fails_no_caller(
    open_arena: OpenArena, postgres_target: PostgresDatabase, confirm_by: ConfirmBy
) -> None:
    async with open_arena(postgres_target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        await postgres_target.server.kill()
        await arena.start_callers(CALLERS)
        await eventually(lambda: batcher.logged("waits for its sink"), within_s=30)
        await postgres_target.server.start()
        assert (await arena.audit()).completed == 2 * CALLERS


@pytest.mark.fast
async def test_commit_whose_reply_is_lost_is_found_in_the_ledger(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        await arena.start_workers()
        await arena.start_callers(1)
        await arena.until_written()
        # Set after the first write, so that it does not hit a transaction of the worker's startup.
        arena.database_proxy.loses_reply_to = b"COMMIT\0"
        await arena.start_callers(CALLERS)
        assert (await arena.audit()).completed == CALLERS + 1
        assert arena.database_proxy.swallowed
        assert (await arena.queue.statistics()).counters["duplicate"] > 0


async def test_batch_is_held_while_postgresql_refuses_connections(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        arena.database_proxy.become(Network.REFUSING)
        await arena.start_callers(CALLERS)
        await eventually(lambda: batcher.logged("waits for its sink"), within_s=60)
        arena.database_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert batcher.drains_started() == 1


@pytest.mark.parametrize("network", [Network.SILENT, Network.DEAF])
async def test_same_drain_waits_for_postgresql_that_does_not_answer(
    open_arena: OpenArena, postgres_target: PostgresDatabase, network: Network
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        arena.database_proxy.become(network)
        await arena.start_callers(CALLERS)
        await _until_oldest_waited(arena, SHORT_OUTAGE_S)
        assert bool(arena.database_proxy.swallowed) is (network is Network.DEAF)
        arena.database_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert batcher.drains_started() == 1


async def test_postgresql_silent_beyond_every_limit_fails_no_caller(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target) as arena:
        assert arena.database_proxy
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        arena.database_proxy.become(Network.SILENT)
        await arena.start_callers(CALLERS)
        await _until_oldest_waited(arena, LONG_OUTAGE_S)
        assert batcher.logged("waits for its sink")
        arena.database_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert batcher.drains_started() == 1


async def test_same_drain_waits_for_frozen_postgresql(open_arena: OpenArena, postgres_target: PostgresDatabase) -> None:
    async with open_arena(postgres_target) as arena:
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        async with frozen(postgres_target.server):
            await arena.start_callers(CALLERS)
            await _until_oldest_waited(arena, SHORT_OUTAGE_S)
        assert (await arena.audit()).completed == 2 * CALLERS
        assert batcher.drains_started() == 1


async def test_long_database_lock_does_not_multiply_the_backlog(open_arena: OpenArena, target: Database) -> None:
    """With confirmation by signal: with completion, each submit is another activity to complete, so another entry."""
    async with open_arena(target, confirm_timeout=RESUBMITTING_LATE) as arena:
        _, batcher = await arena.start_workers()
        with locked(target):
            before = await _lookups(arena)
            await arena.start_callers(CALLERS)

            async def have_submitted_twice() -> bool:
                return await _lookups(arena) >= before + 2 * CALLERS

            await eventually(have_submitted_twice, within_s=90)
            assert batcher.logged("waits for its sink") or await arena.has_held(CALLERS)
            assert await arena.backlog() == CALLERS
        assert (await arena.audit()).completed == CALLERS


async def _lookups(arena: Arena) -> int:
    """Count the lookups of a request in a hash: one for each append, as nothing is acknowledged during an outage."""
    statistics: dict[str, Any] = await arena.redis.info("commandstats")
    return int(statistics.get("cmdstat_hget", {"calls": 0})["calls"])


async def _until_oldest_waited(arena: Arena, seconds: float) -> None:
    """Wait until an entry has been in the stream for this long."""

    async def is_old() -> bool:
        return (await arena.queue.statistics()).oldest_ms > seconds * 1000

    await eventually(is_old, within_s=seconds + 60)
