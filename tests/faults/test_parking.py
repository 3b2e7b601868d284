"""Entries that come while a drain is being parked, is parked, or is being woken: none may sleep."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import WAIT_S, Arena
from tests.faults.outages import cut_off
from tests.support.proxy import Network
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.workers.operating.host import Hosts, HostState

CALLERS = 3


@pytest.fixture
async def arena(open_arena: OpenArena, sqlite_target: Database) -> AsyncIterator[Arena]:
    async with open_arena(sqlite_target, park_after=timedelta(seconds=1)) as arena:
        yield arena


async def until_parked(arena: Arena) -> None:
    async def is_parked() -> bool:
        return (await Hosts(arena.client).look(arena.partitions[0])).state is HostState.PARKED

    await eventually(is_parked, within_s=WAIT_S)


async def append_foreign(arena: Arena, number: int) -> None:
    """Append with a plain XADD what is no request: it becomes a dead letter once a drain has seen it."""
    await arena.redis.xadd(arena.queue.stream_key, {"number": str(number)})


async def has_seen_foreign(arena: Arena, number: int) -> None:
    await eventually(lambda: arena.has_dead_letters(number), within_s=WAIT_S)


@pytest.mark.parametrize("point", ["before_parked", pytest.param("after_parked", marks=pytest.mark.fast)])
async def test_batcher_killed_while_its_drain_is_parked_is_replaced_and_sees_what_came(
    arena: Arena, point: str
) -> None:
    _, batcher = await arena.start_workers("--crash", point)
    await arena.start_callers(CALLERS)
    assert await batcher.exited() < 0
    await append_foreign(arena, 1)
    await arena.start_callers(CALLERS)
    await arena.start_worker("batcher")
    await has_seen_foreign(arena, 1)
    assert (await arena.audit(counters=False)).completed == 2 * CALLERS


async def test_parked_drain_without_workers_is_woken_by_the_next_one(arena: Arena) -> None:
    _, batcher = await arena.start_workers()
    await until_parked(arena)
    await batcher.kill()
    await append_foreign(arena, 1)
    await arena.start_callers(CALLERS)
    await arena.start_worker("batcher")
    await has_seen_foreign(arena, 1)
    assert (await arena.audit(counters=False)).completed == CALLERS


async def test_batcher_killed_at_any_moment_around_parking_leaves_nothing_asleep(arena: Arena) -> None:
    moments = random.Random(11)
    await arena.start_worker("main")
    for number in range(1, 7):
        batcher = await arena.start_worker("batcher")
        await asyncio.sleep(moments.uniform(2, 9))  # the moment is what is tried: parking takes from one to six seconds
        await append_foreign(arena, number)
        await batcher.kill()
    await arena.start_callers(CALLERS)
    await arena.start_worker("batcher")
    await has_seen_foreign(arena, 6)
    assert (await arena.audit(counters=False)).completed == CALLERS


async def test_redis_that_loses_everything_while_a_drain_is_parked(arena: Arena) -> None:
    await arena.start_workers()
    await until_parked(arena)
    await arena.redis.flushall()
    await arena.until_batcher_ready()
    await arena.start_callers(CALLERS)
    assert (await arena.audit(counters=False)).completed == CALLERS


@pytest.mark.parametrize("network", [Network.REFUSING, Network.SILENT])
@pytest.mark.parametrize("away", ["redis", "temporal"])
async def test_outage_while_a_drain_is_parked_or_woken(arena: Arena, away: str, network: Network) -> None:
    await arena.start_workers()
    await until_parked(arena)
    proxy = arena.redis_proxy if away == "redis" else arena.temporal_proxy
    async with cut_off(proxy, network):
        await append_foreign(arena, 1)
        if away == "redis":
            await arena.start_callers(CALLERS)
    await has_seen_foreign(arena, 1)
    await arena.start_callers(CALLERS)
    assert (await arena.audit(counters=False)).completed == CALLERS * (2 if away == "redis" else 1)
