"""Redis loses the tail of its file, its data, its group, or what its replica lacks: callers submit again."""

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


async def test_requests_lost_with_the_tail_of_the_file_are_submitted_again(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=RESUBMITTING) as arena:
        _, batcher = await arena.start_workers()
        await batcher.stop()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        await arena.redis_server.kill()
        os.truncate(_append_only_file(arena), _append_only_file(arena).stat().st_size - 1_000)
        await arena.redis_server.start()
        assert await arena.backlog() < CALLERS
        await arena.start_worker("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS


async def test_redelivery_after_lost_acknowledgements_is_answered_by_the_ledger(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.start_workers()
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        size = await _complete_file_size(arena)
        await arena.resume()
        assert (await arena.audit()).completed == CALLERS
        await batcher.stop()
        await arena.redis_server.kill()
        os.truncate(_append_only_file(arena), size + 10)  # in the middle of a later command
        await arena.redis_server.start()
        assert await arena.backlog() == CALLERS
        await arena.start_worker("batcher")
        await arena.audit()
        assert (await arena.queue.statistics()).counters["duplicate"] == CALLERS


def _append_only_file(arena: Arena) -> Path:
    [file] = arena.redis_server.folder.glob("redis/appendonlydir/*.incr.aof")
    return file


async def _complete_file_size(arena: Arena) -> int:
    """The size of the append-only file, once every command so far is in it."""

    async def is_written_out() -> bool:
        return bool((await arena.redis.info("persistence"))["aof_buffer_length"] == 0)

    await eventually(is_written_out)
    return _append_only_file(arena).stat().st_size


@pytest.mark.parametrize("forgetting", ["FLUSHALL", "DEL"])
async def test_requests_that_redis_forgets_are_submitted_again(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, forgetting: str
) -> None:
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=RESUBMITTING) as arena:
        _, batcher = await arena.start_workers()
        await batcher.stop()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        await _forget(arena, forgetting)
        assert await arena.backlog() == 0
        await arena.start_worker("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS


@pytest.mark.parametrize("forgetting", ["FLUSHALL", "DEL", "XGROUP DESTROY"])
async def test_drain_whose_stream_is_forgotten_keeps_its_batch_and_goes_on(
    open_arena: OpenArena, sqlite_target: Database, forgetting: str
) -> None:
    async with open_arena(sqlite_target, max_wait=timedelta(seconds=3)) as arena:
        await arena.start_workers()
        await arena.start_callers(CALLERS)
        # The first batch was closed by its size; the drain keeps the other requests and waits for more.
        await arena.until_written()
        await eventually(partial(_all_are_taken, arena, CALLERS))
        await _forget(arena, forgetting)
        await arena.start_callers(CALLERS)
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


async def test_recreated_group_delivers_what_was_appended_before_it(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.start_workers()
        await batcher.stop()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        await arena.redis.xgroup_destroy(arena.queue.stream_key, GROUP)
        await arena.start_worker("batcher")
        assert (await arena.audit()).completed == CALLERS


async def test_redis_that_restarts_without_a_file_is_refilled_by_its_callers(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    async with (
        RedisServer(tmp_path / "forgetful", extra=("--appendonly", "no")) as forgetful,
        open_arena(sqlite_target, redis_server=forgetful, confirm_timeout=RESUBMITTING) as arena,
    ):
        _, batcher = await arena.start_workers()
        await batcher.stop()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        await forgetful.kill()
        await forgetful.start()
        assert await arena.backlog() == 0
        await arena.start_worker("batcher")
        assert (await arena.audit(counters=False)).completed == CALLERS


async def test_paused_queue_is_known_and_resumed_after_its_redis_restarted_empty(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    async with (
        RedisServer(tmp_path / "forgetful", extra=("--appendonly", "no")) as forgetful,
        open_arena(sqlite_target, redis_server=forgetful, confirm_timeout=RESUBMITTING) as arena,
    ):
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        await forgetful.kill()
        await forgetful.start()
        assert await arena.contract() is None
        await arena.until_batcher_ready()  # it is announced again, although nothing drains it
        status, output, errors = await arena.command("queue", "status")
        assert status == 0, errors
        assert f"{arena.partitions[0]} batcher: paused\n" in output
        status, output, errors = await arena.command("queue", "resume")
        assert (status, output) == (0, f"{arena.partitions[0]}: running\n"), errors
        assert (await arena.audit(counters=False)).completed == CALLERS


async def test_failover_to_a_lagging_replica_loses_no_awaited_request(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    async with (
        RedisServer(tmp_path / "primary") as primary,
        Proxy(primary.port) as replication,
        RedisServer(tmp_path / "replica", extra=("--replicaof", HOST, str(replication.port))) as replica,
        open_arena(sqlite_target, redis_server=primary, confirm_timeout=RESUBMITTING) as arena,
        open_arena(sqlite_target, redis_server=replica) as on_replica,
    ):
        _, batcher = await arena.start_workers()
        await batcher.stop()
        await arena.start_callers(CALLERS)
        await on_replica.until_queued(CALLERS)
        replication.become(Network.SILENT)
        await arena.start_callers(CALLERS)
        await arena.until_queued(2 * CALLERS)
        await primary.kill()
        await on_replica.redis.slaveof()
        assert await on_replica.backlog() == CALLERS
        arena.redis_proxy.target_port = replica.port
        arena.redis = on_replica.redis
        await arena.start_worker("batcher")
        assert (await arena.audit(counters=False)).completed == 2 * CALLERS
