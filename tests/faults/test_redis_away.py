"""Redis is silent, full, killed, loading, or no longer the primary: callers wait, and nothing is lost."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena
from tests.support.proxy import Network
from tests.support.redis_kinds import RedisKind, redis_of
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import HOST, Server

CALLERS = 12
LOSSES = CALLERS // 2


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """The server keeps its connections and answers nobody."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def configured(arena: Arena, **values: str) -> AsyncIterator[None]:
    before: dict[str, Any] = {name: (await arena.redis.config_get(name)) for name in values}
    for name, value in values.items():
        await arena.redis.config_set(name, value)
    try:
        yield
    finally:
        for name, answer in before.items():
            await arena.redis.config_set(name, *answer.values())


async def test_append_whose_answer_is_lost_is_not_appended_twice(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, batcher = await arena.run_both()
        await arena.start(1)  # from now on Redis knows the script, and does what it is asked
        await arena.written()
        await batcher.stop()
        before = await _scripts_run(arena)
        arena.redis_proxy.loses_reply_to, arena.redis_proxy.losses = b"EVALSHA", LOSSES
        await arena.start(CALLERS)

        async def are_appended_again() -> bool:
            return await _scripts_run(arena) == before + CALLERS + LOSSES

        await eventually(are_appended_again, within_s=60)
        await arena.run("batcher")
        assert (await arena.audit()).completed == CALLERS + 1
        assert (await arena.queue.statistics()).counters["appended"] == CALLERS + 1


async def _scripts_run(arena: Arena) -> int:
    statistics: dict[str, Any] = await arena.redis.info("commandstats")
    return int(statistics["cmdstat_evalsha"]["calls"])


@pytest.mark.parametrize("network", [Network.REFUSING, Network.SILENT, Network.DEAF])
async def test_redis_that_cannot_be_reached_for_a_while_delays_everybody_and_fails_nobody(
    open_arena: OpenArena, sqlite_target: Database, network: Network
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        arena.redis_proxy.become(network)
        await arena.start(CALLERS)
        await eventually(lambda: batcher.says("trying again"), within_s=30)
        arena.redis_proxy.become(Network.UP)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_redis_that_is_killed_and_comes_back_has_lost_nothing(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        await arena.redis_server.kill()
        await arena.start(CALLERS)
        await arena.redis_server.start()
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_redis_that_is_still_loading_its_data_is_asked_again(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    # Microseconds for each key of a snapshot; and how often it answers meanwhile that it is loading.
    slow = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    async with (
        RedisServer(tmp_path / "slow", extra=slow) as server,
        open_arena(sqlite_target, redis_server=server) as arena,
    ):
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        await arena.redis.mset({f"filler-{number}": "x" * 100 for number in range(5_000)})
        await arena.redis.bgrewriteaof()

        async def is_snapshot() -> bool:
            state = await arena.redis.info("persistence")
            return (state["aof_rewrite_in_progress"], state["aof_rewrites"]) == (0, 1)

        await eventually(is_snapshot)
        await server.kill()
        await arena.start(CALLERS)
        await server.start()
        await eventually(lambda: batcher.says("loading the dataset"))
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_redis_that_hangs_is_given_up_and_asked_again(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        with frozen(arena.redis_server):
            await arena.start(CALLERS)
            await eventually(lambda: batcher.says("trying again"), within_s=30)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_primary_that_becomes_a_replica_during_a_read_is_left(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    async with (
        RedisServer(tmp_path / "primary") as primary,
        RedisServer(tmp_path / "replica", extra=("--replicaof", HOST, str(primary.port))) as replica,
        open_arena(sqlite_target, redis_server=primary) as arena,
        open_arena(sqlite_target, redis_server=replica) as on_replica,
    ):
        _, batcher = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        await on_replica.redis.slaveof()
        await arena.redis.slaveof(HOST, replica.port)
        await arena.start(CALLERS)
        await eventually(lambda: batcher.says("trying again"), within_s=30)
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
        _, batcher = await arena.run_both()
        await batcher.stop()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        async with configured(arena, maxmemory="1"):
            [refused, *_] = await arena.start(CALLERS)
            await eventually(lambda: arena.failing(refused, "out of memory"), within_s=30)
            await arena.run("batcher")
            await arena.written(CALLERS)
            await arena.queued(0)
        assert (await arena.audit()).completed == 2 * CALLERS


async def test_full_stream_holds_its_callers_back_and_then_takes_them(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target, max_backlog=10) as arena:
        await arena.run_both()
        await arena.pause()
        await arena.start(4 * CALLERS)

        async def are_held_back() -> bool:
            held = [await arena.failing(handle, "the limit is 10") for handle in arena.handles]
            return sum(held) == 4 * CALLERS - 10

        await eventually(are_held_back, within_s=60)
        assert await arena.backlog() == 10
        await arena.resume()
        assert (await arena.audit()).completed == 4 * CALLERS


async def test_redis_that_takes_no_more_clients_delays_everybody_and_fails_nobody(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both()
        async with configured(arena, maxclients="1"):
            arena.redis_proxy.cut()
            await arena.start(CALLERS)
            await eventually(lambda: batcher.says("trying again"), within_s=30)
        assert (await arena.audit()).completed == CALLERS
