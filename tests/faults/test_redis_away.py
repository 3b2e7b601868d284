"""Redis is unreachable, killed, loading, frozen, full, or no longer the primary: callers wait, nothing is lost."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena
from tests.faults.outages import configured, frozen
from tests.support.proxy import Network
from tests.support.redis_kinds import RedisKind, redis_of
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import HOST

CALLERS = 12
LOSSES = CALLERS // 2


async def test_append_whose_reply_is_lost_is_not_appended_twice(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.start_workers()
        await arena.start_callers(1)  # from now on Redis knows the script, and executes each EVALSHA
        await arena.until_written()
        await batcher.stop()
        before = await _scripts_run(arena)
        arena.redis_proxy.loses_reply_to, arena.redis_proxy.losses = b"EVALSHA", LOSSES
        await arena.start_callers(CALLERS)

        async def all_are_appended() -> bool:
            return await _scripts_run(arena) == before + CALLERS + LOSSES

        await eventually(all_are_appended, within_s=60)
        await arena.start_worker("batcher")
        assert (await arena.audit()).completed == CALLERS + 1
        assert (await arena.queue.statistics()).counters["appended"] == CALLERS + 1


async def _scripts_run(arena: Arena) -> int:
    statistics: dict[str, Any] = await arena.redis.info("commandstats")
    return int(statistics["cmdstat_evalsha"]["calls"])


@pytest.mark.parametrize("network", [Network.REFUSING, Network.SILENT, Network.DEAF])
async def test_unreachable_redis_delays_callers_and_fails_none(
    open_arena: OpenArena, sqlite_target: Database, network: Network
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        arena.redis_proxy.become(network)
        await arena.start_callers(CALLERS)
        await eventually(lambda: batcher.logged("trying again"), within_s=30)
        arena.redis_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_killed_redis_loses_nothing(open_arena: OpenArena, target: Database, confirm_by: ConfirmBy) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        await arena.redis_server.kill()
        await arena.start_callers(CALLERS)
        await arena.redis_server.start()
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_redis_that_is_loading_its_data_is_asked_again(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    # Microseconds per key of a snapshot, and bytes after which it answers commands (that it is loading).
    slow = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    async with (
        RedisServer(tmp_path / "slow", extra=slow) as server,
        open_arena(sqlite_target, redis_server=server) as arena,
    ):
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        await arena.redis.mset({f"filler-{number}": "x" * 100 for number in range(5_000)})
        await arena.redis.bgrewriteaof()

        async def is_rewritten() -> bool:
            state = await arena.redis.info("persistence")
            return (state["aof_rewrite_in_progress"], state["aof_rewrites"]) == (0, 1)

        await eventually(is_rewritten)
        await server.kill()
        await arena.start_callers(CALLERS)
        await server.start()
        await eventually(lambda: batcher.logged("loading the dataset"))
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_frozen_redis_times_out_and_is_asked_again(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        async with frozen(arena.redis_server):
            await arena.start_callers(CALLERS)
            await eventually(lambda: batcher.logged("trying again"), within_s=30)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_connection_to_a_demoted_primary_is_dropped(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    async with (
        RedisServer(tmp_path / "primary") as primary,
        RedisServer(tmp_path / "replica", extra=("--replicaof", HOST, str(primary.port))) as replica,
        open_arena(sqlite_target, redis_server=primary) as arena,
        open_arena(sqlite_target, redis_server=replica) as on_replica,
    ):
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        await on_replica.redis.slaveof()
        await arena.redis.slaveof(HOST, replica.port)
        await arena.start_callers(CALLERS)
        await eventually(lambda: batcher.logged("trying again"), within_s=30)
        arena.redis_proxy.target_port = replica.port
        arena.redis_proxy.cut()
        arena.redis = on_replica.redis
        assert (await arena.audit(counters=False)).completed == 2 * CALLERS


@pytest.mark.parametrize("kind", [RedisKind.VALKEY, RedisKind.REDIS6, RedisKind.REDIS7])
async def test_redis_out_of_memory_refuses_appends_and_is_drained(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path, kind: RedisKind
) -> None:
    server = redis_of(kind, tmp_path / "full")
    assert isinstance(server, RedisServer)
    async with server, open_arena(sqlite_target, redis_server=server) as arena:
        _, batcher = await arena.start_workers()
        await batcher.stop()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        async with configured(arena.redis, maxmemory="1"):
            [refused, *_] = await arena.start_callers(CALLERS)
            await eventually(lambda: arena.is_failing(refused, "out of memory"), within_s=30)
            await arena.start_worker("batcher")
            await arena.until_written(CALLERS)
            await arena.until_queued(0)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_full_stream_delays_callers_until_it_is_drained(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target, max_backlog=10) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(4 * CALLERS)

        async def are_refused() -> bool:
            refused = [await arena.is_failing(handle, "the limit is 10") for handle in arena.handles]
            return sum(refused) == 4 * CALLERS - 10

        await eventually(are_refused, within_s=60)
        assert await arena.backlog() == 10
        await arena.resume()
        assert (await arena.audit()).completed == 4 * CALLERS


@pytest.mark.fast
async def test_redis_that_takes_no_more_clients_delays_callers_and_fails_none(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.start_workers()
        async with configured(arena.redis, maxclients="1"):
            arena.redis_proxy.cut()
            await arena.start_callers(CALLERS)
            await eventually(lambda: batcher.logged("trying again"), within_s=30)
        assert (await arena.audit()).completed == CALLERS
