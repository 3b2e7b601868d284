"""Temporal is killed, frozen, silent or limits its rate: rows stay written, and callers are confirmed afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena
from tests.faults.test_database_away import locked
from tests.faults.test_redis_away import frozen
from tests.support.proxy import Network, Proxy
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.temporal_server import TemporalServer

CALLERS = 12
CROWD = 20  # tasks that ask Temporal something all the time


async def test_temporal_that_is_killed_during_a_batch_comes_back_to_all_its_callers(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await _confirm_in_vain(arena, killed(arena.temporal_server))
        assert (await arena.audit(within_s=110)).completed == CALLERS


async def test_temporal_that_hangs_while_callers_are_confirmed_leaves_their_entries_pending(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await _confirm_in_vain(arena, hanging(arena.temporal_server))
        assert (await arena.audit(within_s=110)).completed == CALLERS


@pytest.mark.parametrize("network", [Network.REFUSING, Network.SILENT, Network.DEAF])
async def test_workers_that_lose_sight_of_temporal_find_it_again(
    open_arena: OpenArena, sqlite_target: Database, network: Network
) -> None:
    async with open_arena(sqlite_target) as arena:
        await _confirm_in_vain(arena, behind(arena.temporal_proxy, network))
        assert (await arena.audit(within_s=110)).completed == CALLERS


async def test_temporal_that_limits_its_rate_confirms_everybody_in_the_end(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    limit = ("--dynamic-config-value", "frontend.namespaceRPS=20")
    async with (
        TemporalServer(tmp_path / "limited", in_memory=True, extra=limit) as limited,
        open_arena(sqlite_target, temporal_server=limited) as arena,
    ):
        await _confirm_in_vain(arena, crowded(arena.client), nobody_is_told=False)
        assert (await arena.audit(within_s=110)).completed == CALLERS


async def _confirm_in_vain(
    arena: Arena, outage: AbstractAsyncContextManager[None], *, nobody_is_told: bool = True
) -> None:
    """The outage begins just before the commit, and lasts until confirmations have failed."""
    _, batcher = await arena.run_both()
    async with AsyncExitStack() as lasting:
        with locked(arena.database):
            await arena.start(CALLERS)
            await arena.queued(CALLERS)
            await eventually(lambda: batcher.says("is held"), within_s=60)
            await lasting.enter_async_context(outage)
        await arena.written(CALLERS)
        await eventually(lambda: _failed_confirmations(arena), within_s=90)
        if nobody_is_told:
            assert await arena.backlog() == CALLERS  # nothing is acknowledged before its caller knows


async def _failed_confirmations(arena: Arena) -> int:
    # A drain counts every few seconds and when it ends, which it does when its heartbeats reach nobody.
    return (await arena.queue.statistics()).counters.get("confirmations_retried", 0)


@asynccontextmanager
async def killed(server: TemporalServer) -> AsyncIterator[None]:
    await server.kill()
    yield
    await server.start()


@asynccontextmanager
async def hanging(server: TemporalServer) -> AsyncIterator[None]:
    with frozen(server):
        yield


@asynccontextmanager
async def behind(proxy: Proxy, network: Network) -> AsyncIterator[None]:
    proxy.become(network)
    yield
    proxy.become(Network.UP)


@asynccontextmanager
async def crowded(client: Client) -> AsyncIterator[None]:
    """Others use up the rate that the namespace has, with calls that are as urgent as confirmations."""
    nobody = SignalWorkflowExecutionRequest(
        namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id="nobody"), signal_name="x"
    )

    async def ask_for_ever() -> None:
        while True:
            with contextlib.suppress(RPCError):
                await client.workflow_service.signal_workflow_execution(nobody)

    asking = [asyncio.create_task(ask_for_ever()) for _ in range(CROWD)]
    try:
        yield
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
