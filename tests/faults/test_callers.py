"""What befalls callers: they are cancelled, terminated, reset, run out of time, and are sent nonsense."""

import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from tests.faults.caller_audit import Handle, Told
from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import RESUBMITTING, Arena
from tests.support.order_callers import finished_tasks
from tests.support.target_databases import Database
from write_batcher.models import CONFIRMATION_SIGNAL, ConfirmBy, Outcome, WriteReceipt
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workflows.main import MainWorkflow

CALLERS = 4
MOST_SIGNALS = 10  # that one run may receive where a test lowers it; Temporal's own limit is 10,000

NONSENSE: list[list[Any]] = [
    [],
    [None],
    [7],
    ["written"],
    [[]],
    [[None, 7, "x", {}]],
    [{"outcome": "written"}],
    [[{"request_id": "another", "outcome": "written"}]],
    [[{"request_id": ["x"], "outcome": "no such outcome", "batch_size": "many"}]],
    [[], "too", "many"],
]


async def test_caller_that_is_cancelled_withdraws_and_one_that_is_terminated_does_not(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run_both()
        await arena.pause()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        cancelled, terminated, *_ = arena.handles
        await cancelled.cancel()
        await terminated.terminate()
        await arena.resume()
        told = await arena.audit()
        assert told.kinds == {"CancelledError": 1, "TerminatedError": 1}
        assert arena.written_callers() == {handle.id for handle in arena.handles if handle is not cancelled}


@pytest.mark.parametrize("crash", [(), ("--crash", "after_settle")], ids=["", "settling crashes"])
async def test_caller_whose_time_is_up_has_not_written_and_writes_when_it_is_reset(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, crash: tuple[str, ...]
) -> None:
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=timedelta(seconds=4)) as arena:
        _, batcher = await arena.run_both(*crash)
        await arena.pause()
        await arena.start(CALLERS)
        if crash:
            await batcher.ended()
            await arena.run("batcher")
        told = await arena.ended()
        assert told.kinds == {"WriteNotConfirmed": CALLERS}
        await arena.resume()
        await arena.audit()
        assert arena.rows() == 0
        arena.handles = [await _reset(arena, handle) for handle in arena.handles]
        assert (await arena.audit()).completed == CALLERS
        assert arena.rows() == CALLERS


async def test_caller_that_has_written_and_is_reset_gets_the_receipt_of_its_first_write(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run_both()
        await arena.start(CALLERS)
        first = await arena.audit()
        arena.handles = [await _reset(arena, handle) for handle in arena.handles]
        second = await arena.audit()
        assert {result.outcome for result in second.results.values()} == {Outcome.DUPLICATE}
        assert _receipts(second) == _receipts(first)
        assert len(_receipts(first)) == arena.rows() == CALLERS


async def test_request_id_that_others_use_for_their_records_writes_the_first_one_and_rejects_theirs(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run("main", "--request-id", f"{arena.name}-0/order/1")
        await arena.run("batcher")
        await arena.batcher_ready()
        await arena.pause()
        [first] = await arena.start(1)
        await arena.queued(1)
        await arena.start(CALLERS)
        await arena.queued(1 + CALLERS)
        await arena.resume()
        told = await arena.ended()
        assert told.results.keys() == {first.id}
        assert [kind for kind, message in told.failures.values() if "used for another record" in message] == (
            ["WriteRejected"] * CALLERS
        )
        arena.handles = [first]  # nothing of the others is in the database, nor in its ledger
        await arena.audit()
        assert await arena.dead_letters(CALLERS)


async def test_caller_is_not_confused_by_nonsense(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.pause()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        for handle in arena.handles:
            for arguments in NONSENSE:
                await handle.signal(CONFIRMATION_SIGNAL, args=arguments)
        await arena.resume()
        assert (await arena.audit()).completed == CALLERS


async def test_workflow_id_that_is_used_again_is_a_write_of_its_own(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.start(CALLERS)
        first = await arena.audit()
        arena.handles.clear()
        arena.started = 0
        await arena.start(CALLERS)
        second = await arena.audit(runs=2)
        assert second.completed == CALLERS
        ids = {result.request_id for told in (first, second) for result in told.results.values()}
        assert len(ids) == 2 * CALLERS


async def test_workflow_id_that_is_used_again_is_not_confused_by_receipts_of_its_first_run(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.start(CALLERS)
        first = await arena.audit()
        arena.handles.clear()
        arena.started = 0
        await arena.pause()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        second_ids = await _queued_ids(arena)
        for handle in arena.handles:
            old, new = first.results[handle.id].request_id, second_ids[handle.id]
            stale = [
                WriteReceipt(request_id=old, outcome=Outcome.WRITTEN, batch_id=first.results[handle.id].batch_id),
                WriteReceipt(request_id=old, outcome=Outcome.REJECTED, error="stale"),
                WriteReceipt(request_id=new, outcome=Outcome.REJECTED, attempt="an earlier one", error="stale"),
            ]
            await handle.signal(CONFIRMATION_SIGNAL, stale)
        await arena.resume()
        second = await arena.audit(runs=2)
        assert second.completed == CALLERS
        assert {caller: result.request_id for caller, result in second.results.items()} == second_ids
        receipts = {result.request_id: result.batch_id for told in (first, second) for result in told.results.values()}
        assert dict(arena.database.ledger("request_id, batch_id")) == receipts


async def test_caller_that_the_server_lets_nobody_signal_any_more_learns_the_outcome_by_settling(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    limit = ("--dynamic-config-value", f"history.maximumSignalsPerExecution={MOST_SIGNALS}")
    async with (
        TemporalServer(tmp_path / "limited", in_memory=True, extra=limit) as limited,
        open_arena(sqlite_target, temporal_server=limited, confirm_timeout=RESUBMITTING) as arena,
    ):
        _, batcher = await arena.run_both()
        await arena.pause()
        await arena.start(CALLERS)
        await arena.queued(CALLERS)
        deaf = arena.handles[0]
        for _ in range(MOST_SIGNALS):
            await deaf.signal(CONFIRMATION_SIGNAL, "nonsense")
        await arena.resume()
        told = await arena.audit()
        assert told.completed == CALLERS
        assert told.results[deaf.id].outcome is Outcome.WRITTEN
        assert batcher.says(f"caller {deaf.id} cannot be reached")
        assert (await arena.queue.statistics()).counters["without_caller"] == 2  # when it asked, and asked again


def _receipts(told: Told) -> dict[str, tuple[str, str | None]]:
    return {caller: (result.request_id, result.batch_id) for caller, result in told.results.items()}


async def _queued_ids(arena: Arena) -> dict[str, str]:
    """The request id of each caller that has an entry in the stream."""
    entries: Any = await arena.redis.xrange(arena.queue.stream_key)
    return {json.loads(fields[b"reply"])["workflow_id"]: fields[b"id"].decode() for _, fields in entries}


async def _reset(arena: Arena, handle: Handle) -> Handle:
    """As an operator does, to before the submit."""
    answer = await arena.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=arena.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.first_execution_run_id or ""),
            reason="the cause is repaired",
            workflow_task_finish_event_id=(await finished_tasks(handle))[0],
            request_id=str(uuid.uuid4()),
        )
    )
    return arena.client.get_workflow_handle_for(MainWorkflow.run, handle.id, run_id=answer.run_id)
