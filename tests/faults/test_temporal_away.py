"""Temporal is killed, frozen, unreachable or rate-limited: rows stay written, and callers are confirmed later."""

import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena
from tests.faults.outages import crowded, cut_off, frozen, killed
from tests.support.proxy import Network
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.temporal_server import TemporalServer

CALLERS = 12
LATE_S = 110  # for callers whose confirmations are retried


async def test_temporal_killed_during_a_batch_confirms_every_caller_later(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await _fail_confirmations(arena, killed(arena.temporal_server))
        assert (await arena.audit(within_s=LATE_S)).completed == CALLERS


async def test_frozen_temporal_leaves_unconfirmed_entries_pending(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await _fail_confirmations(arena, frozen(arena.temporal_server))
        assert (await arena.audit(within_s=LATE_S)).completed == CALLERS


@pytest.mark.parametrize("network", [Network.REFUSING, Network.SILENT, Network.DEAF])
async def test_workers_cut_off_from_temporal_reconnect(
    open_arena: OpenArena, sqlite_target: Database, network: Network
) -> None:
    async with open_arena(sqlite_target) as arena:
        await _fail_confirmations(arena, cut_off(arena.temporal_proxy, network))
        assert (await arena.audit(within_s=LATE_S)).completed == CALLERS


async def test_rate_limited_temporal_confirms_every_caller_in_the_end(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    limit = ("--dynamic-config-value", "frontend.namespaceRPS=20")
    async with (
        TemporalServer(tmp_path / "limited", in_memory=True, extra=limit) as limited,
        open_arena(sqlite_target, temporal_server=limited) as arena,
    ):
        await _fail_confirmations(arena, crowded(arena.client), all_fail=False)
        assert (await arena.audit(within_s=LATE_S)).completed == CALLERS


async def _fail_confirmations(
    arena: Arena, outage: AbstractAsyncContextManager[None], *, all_fail: bool = True
) -> None:
    """Begin the outage just before a batch is committed, and end it when confirmations have failed."""
    _, batcher = await arena.start_workers("--freeze", "before_commit")
    await arena.pause()
    await arena.start_callers(CALLERS)
    await arena.until_queued(CALLERS)
    await arena.resume()
    await eventually(batcher.is_frozen, within_s=60)
    async with outage:
        batcher.send(signal.SIGCONT)
        await arena.until_written(CALLERS)
        await eventually(lambda: _failed_confirmations(arena), within_s=90)
        if all_fail:
            assert await arena.backlog() == CALLERS  # nothing is acknowledged before its caller is confirmed


async def _failed_confirmations(arena: Arena) -> int:
    # A drain stores its counters every few seconds and when it ends, as it does when its heartbeats get no reply.
    return (await arena.queue.statistics()).counters.get("confirmations_retried", 0)
