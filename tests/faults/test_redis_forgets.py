"""Redis loses the tail of its file, its data, the group, or what its replica lacks: callers submit anew."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import RESUBMITTING, Arena
from tests.support.proxy import Network, Proxy
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.queue.stream import GROUP
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import HOST

CALLERS = 12


async def test_what_redis_lost_with_the_tail_of_its_file_is_submitted_anew(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=RESUBMITTING) as arena:
        _, batcher = await arena.run_both()
        await batcher.stop()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        await arena.redis_server.kill()
        os.truncate(_log_of(arena), _log_of(arena).stat().st_size - 1_000)
        await arena.redis_server.start()
        assert await arena.backlog() < CALLERS
        await arena.run("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS


async def test_what_comes_back_because_redis_lost_its_acknowledgement_is_answered_from_the_ledger(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.run_both()
        await arena.pause()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        size = await _logged(arena)
        await arena.resume()
        assert (await arena.audit()).completed == CALLERS
        await batcher.stop()
        await arena.redis_server.kill()
        os.truncate(_log_of(arena), size + 10)  # in the middle of what came after it
        await arena.redis_server.start()
        assert await arena.backlog() == CALLERS
        await arena.run("batcher")
        await arena.audit()
        assert (await arena.queue.statistics()).counters["duplicate"] == CALLERS


def _log_of(arena: Arena) -> Path:
    [file] = arena.redis_server.folder.glob("redis/appendonlydir/*.incr.aof")
    return file


async def _logged(arena: Arena) -> int:
    """How long the append-only file is when all that was done is in it."""

    async def is_all_there() -> bool:
        return bool((await arena.redis.info("persistence"))["aof_buffer_length"] == 0)

    await eventually(is_all_there)
    return _log_of(arena).stat().st_size


@pytest.mark.parametrize("forgetting", ["FLUSHALL", "DEL"])
async def test_requests_that_redis_forgets_are_submitted_anew(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, forgetting: str
) -> None:
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=RESUBMITTING) as arena:
        _, batcher = await arena.run_both()
        await batcher.stop()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        await _forget(arena, forgetting)
        assert await arena.backlog() == 0
        await arena.run("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS


@pytest.mark.parametrize("forgetting", ["FLUSHALL", "DEL", "XGROUP DESTROY"])
async def test_batcher_whose_stream_is_forgotten_while_it_reads_keeps_its_batch_and_goes_on(
    open_arena: OpenArena, sqlite_target: Database, forgetting: str
) -> None:
    async with open_arena(sqlite_target, max_wait=timedelta(seconds=3)) as arena:
        await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()  # the first batch, by its size; the others wait for more, in the hand of the drain
        await eventually(partial(_all_are_taken, arena, CALLERS))
        await _forget(arena, forgetting)
        await arena.start(CALLERS)
        assert (await arena.audit(counters=False)).completed == 2 * CALLERS


async def _all_are_taken(arena: Arena, requests: int) -> bool:
    statistics = await arena.queue.statistics()
    return statistics.counters["appended"] == requests and statistics.backlog == statistics.pending


async def _forget(arena: Arena, forgetting: str) -> None:
    match forgetting:
        case "FLUSHALL":
            await arena.redis.flushall()
        case "DEL":
            await arena.redis.delete(arena.queue.stream_key)
        case _:
            await arena.redis.xgroup_destroy(arena.queue.stream_key, GROUP)


async def test_group_that_somebody_destroyed_misses_nothing_that_was_appended_before_it_is_back(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both()
        await batcher.stop()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        await arena.redis.xgroup_destroy(arena.queue.stream_key, GROUP)
        await arena.run("batcher")
        assert (await arena.audit()).completed == CALLERS


async def test_redis_without_a_file_that_restarts_is_refilled_by_the_callers(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    async with (
        RedisServer(tmp_path / "forgetful", extra=("--appendonly", "no")) as forgetful,
        open_arena(sqlite_target, redis_server=forgetful, confirm_timeout=RESUBMITTING) as arena,
    ):
        _, batcher = await arena.run_both()
        await batcher.stop()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        await forgetful.kill()
        await forgetful.start()
        assert await arena.backlog() == 0
        await arena.run("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS


async def test_failover_to_a_replica_that_lags_loses_nothing_that_callers_wait_for(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    async with (
        RedisServer(tmp_path / "primary") as primary,
        Proxy(primary.port) as replication,
        RedisServer(tmp_path / "replica", extra=("--replicaof", HOST, str(replication.port))) as replica,
        open_arena(sqlite_target, redis_server=primary, confirm_timeout=RESUBMITTING) as arena,
        open_arena(sqlite_target, redis_server=replica) as on_replica,
    ):
        _, batcher = await arena.run_both()
        await batcher.stop()
        await arena.start(CALLERS)
        await on_replica.queued(CALLERS)
        replication.become(Network.SILENT)
        await arena.start(CALLERS)
        await arena.queued(2 * CALLERS)
        await primary.kill()
        await on_replica.redis.slaveof()
        assert await on_replica.backlog() == CALLERS
        arena.redis_proxy.target_port = replica.port
        arena.redis = on_replica.redis
        await arena.run("batcher")
        assert (await arena.audit(counters=False)).completed == 2 * CALLERS
