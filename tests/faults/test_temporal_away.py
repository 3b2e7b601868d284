"""Temporal is killed, frozen, silent or limits its rate: rows stay written, and callers are confirmed afterwards."""

from pathlib import Path

import pytest

from tests.databases import Database
from tests.faults.conftest import OpenArena
from tests.faults.test_redis_away import frozen
from tests.proxy import Network
from tests.support import eventually
from write_batcher.models import ConfirmBy
from write_batcher.workers.local import TemporalServer

CALLERS = 12


async def test_temporal_that_is_killed_during_a_batch_comes_back_to_all_its_callers(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run_both()
        await arena.start_together(CALLERS)
        await arena.written()
        await arena.temporal_server.kill()
        await arena.temporal_server.start()
        assert (await arena.audit(within_s=110)).completed == CALLERS


async def test_temporal_that_hangs_while_callers_are_confirmed_leaves_their_entries_pending(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.start_together(CALLERS)
        await eventually(lambda: arena.rows() > 0, within_s=60)
        with frozen(arena.temporal_server):
            await arena.written(CALLERS)
        assert (await arena.audit(within_s=110)).completed == CALLERS


@pytest.mark.parametrize("network", [Network.REFUSING, Network.SILENT, Network.DEAF])
async def test_workers_that_lose_sight_of_temporal_find_it_again(
    open_arena: OpenArena, sqlite_target: Database, network: Network
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.start_together(CALLERS)
        await arena.written()
        arena.temporal_proxy.become(network)
        await arena.written(CALLERS)
        arena.temporal_proxy.become(Network.UP)
        assert (await arena.audit(within_s=110)).completed == CALLERS


async def test_temporal_that_limits_its_rate_confirms_everybody_in_the_end(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    limit = ("--dynamic-config-value", "frontend.namespaceRPS=30")
    async with (
        TemporalServer(tmp_path / "limited", in_memory=True, extra=limit) as limited,
        open_arena(sqlite_target, temporal_server=limited, max_items=100) as arena,
    ):
        await arena.run_both()
        for _ in range(5):
            await arena.start(CALLERS)
        assert (await arena.audit(within_s=110)).completed == 5 * CALLERS
