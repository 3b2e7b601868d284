"""Callers are cancelled, terminated, timed out, reset, or sent malformed signals."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from tests.faults.caller_audit import CallerOutcomes, Handle
from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import RESUBMITTING, Arena
from tests.support.order_callers import finished_tasks, reset
from tests.support.target_databases import Database
from write_batcher.models import CONFIRMATION_SIGNAL, ConfirmBy, Outcome, WriteReceipt
from write_batcher.queue.record_encoding import canonical_json, record_hash
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workflows.main import TABLE, MainWorkflow

CALLERS = 4
MAX_SIGNALS = 10  # to one run; Temporal's default is 10,000

MALFORMED_SIGNALS: list[list[Any]] = [
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


@pytest.mark.fast
async def test_cancelled_caller_withdraws_and_terminated_caller_does_not(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        cancelled, terminated, *_ = arena.handles
        await cancelled.cancel()
        await terminated.terminate()
        await arena.resume()
        outcomes = await arena.audit()
        assert outcomes.failure_types == {"CancelledError": 1, "TerminatedError": 1}
        assert arena.written_callers() == {handle.id for handle in arena.handles if handle is not cancelled}


@pytest.mark.parametrize("crash", [(), ("--crash", "after_settle")], ids=["", "settling crashes"])
async def test_timed_out_caller_has_not_written_and_writes_after_a_reset(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, crash: tuple[str, ...]
) -> None:
    async with open_arena(target, confirm_by=confirm_by, confirm_timeout=timedelta(seconds=4)) as arena:
        _, batcher = await arena.start_workers(*crash)
        await arena.pause()
        await arena.start_callers(CALLERS)
        if crash:
            await batcher.exited()
            await arena.start_worker("batcher")
        outcomes = await arena.outcomes()
        assert outcomes.failure_types == {"WriteNotConfirmed": CALLERS}
        await arena.resume()
        await arena.audit()
        assert arena.rows() == 0
        arena.handles = [await _reset(arena, handle) for handle in arena.handles]
        assert (await arena.audit()).completed == CALLERS
        assert arena.rows() == CALLERS


async def test_reset_caller_that_has_written_gets_its_first_receipt_again(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.start_workers()
        await arena.start_callers(CALLERS)
        first = await arena.audit()
        arena.handles = [await _reset(arena, handle) for handle in arena.handles]
        second = await arena.audit()
        assert {result.outcome for result in second.results.values()} == {Outcome.DUPLICATE}
        assert _receipts(second) == _receipts(first)
        assert len(_receipts(first)) == arena.rows() == CALLERS


@pytest.mark.fast
async def test_request_id_reused_for_another_record_is_rejected(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.start_worker("main", "--request-id", f"{arena.name}-0/order/1")
        await arena.start_worker("batcher")
        await arena.until_batcher_ready()
        await arena.pause()
        [first] = await arena.start_callers(1)
        await arena.until_queued(1)
        await arena.start_callers(CALLERS)
        await arena.until_queued(1 + CALLERS)
        await arena.resume()
        outcomes = await arena.outcomes()
        assert outcomes.results.keys() == {first.id}
        assert [kind for kind, message in outcomes.failures.values() if "used for another record" in message] == (
            ["WriteRejected"] * CALLERS
        )
        arena.handles = [first]  # the others have left nothing in the database, nor in its ledger
        await arena.audit()
        assert await arena.has_dead_letters(CALLERS)


async def test_caller_whose_append_an_operator_fails_is_told_that_it_was_not_written(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target, confirm_by=ConfirmBy.COMPLETION) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        for handle in arena.handles:
            await _fail_append(arena, handle)
        outcomes = await arena.outcomes()
        assert outcomes.failure_types == {"WriteNotSubmitted": CALLERS}
        assert all("failed by hand" in message for _, message in outcomes.failures.values())
        await arena.resume()
        await arena.audit()
        assert arena.rows() == 0


async def test_caller_whose_append_an_operator_fails_is_told_that_it_was_written(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target, confirm_by=ConfirmBy.COMPLETION) as arena:
        _, batcher = await arena.start_workers("--crash", "after_commit")
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        await arena.resume()
        await batcher.exited()
        for handle in arena.handles:
            await _fail_append(arena, handle)
        await arena.start_worker("batcher")
        assert (await arena.audit()).completed == CALLERS


async def _fail_append(arena: Arena, caller: Handle) -> None:
    """Do what `temporal activity fail` does to the append of a caller."""
    description = await caller.describe()
    [append] = description.raw_description.pending_activities
    activity = arena.client.get_async_activity_handle(
        workflow_id=caller.id, run_id=description.run_id, activity_id=append.activity_id
    )
    await activity.fail(ApplicationError("failed by hand", non_retryable=True))


@pytest.mark.fast
async def test_caller_ignores_malformed_signals(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        for handle in arena.handles:
            for arguments in MALFORMED_SIGNALS:
                await handle.signal(CONFIRMATION_SIGNAL, args=arguments)
        await arena.resume()
        assert (await arena.audit()).completed == CALLERS


async def test_reused_workflow_id_writes_again(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        await arena.start_callers(CALLERS)
        first = await arena.audit()
        arena.handles.clear()
        arena.started = 0
        await arena.start_callers(CALLERS)
        second = await arena.audit(runs=2)
        assert second.completed == CALLERS
        ids = {result.request_id for outcomes in (first, second) for result in outcomes.results.values()}
        assert len(ids) == 2 * CALLERS


async def test_reused_workflow_id_ignores_receipts_of_its_first_run(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        await arena.start_callers(CALLERS)
        first = await arena.audit()
        arena.handles.clear()
        arena.started = 0
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        second_ids = await _queued_ids(arena)
        for handle in arena.handles:
            old, new = first.results[handle.id].request_id, second_ids[handle.id]
            record = {"workflow_id": handle.id, "item": "tea", "cents": 450}
            receipt = WriteReceipt(
                request_id=new,
                outcome=Outcome.WRITTEN,
                queue=arena.settings.queue,
                record_hash=record_hash(canonical_json(TABLE, record)),
                batch_id=first.results[handle.id].batch_id,
            )
            rejected = replace(receipt, outcome=Outcome.REJECTED, batch_id=None, error="stale")
            stale = [
                replace(receipt, request_id=old),
                replace(receipt, queue="another"),
                replace(receipt, record_hash=record_hash(canonical_json(TABLE, record | {"cents": 451}))),
                replace(rejected, request_id=old),
                replace(rejected, attempt="an earlier one"),
            ]
            await handle.signal(CONFIRMATION_SIGNAL, stale)
        await arena.resume()
        second = await arena.audit(runs=2)
        assert second.completed == CALLERS
        assert {caller: result.request_id for caller, result in second.results.items()} == second_ids
        receipts = {
            result.request_id: result.batch_id for outcomes in (first, second) for result in outcomes.results.values()
        }
        assert dict(arena.database.ledger("request_id, batch_id")) == receipts


async def test_caller_that_can_receive_no_more_signals_learns_by_settling(
    open_arena: OpenArena, sqlite_target: Database, tmp_path: Path
) -> None:
    limit = ("--dynamic-config-value", f"history.maximumSignalsPerExecution={MAX_SIGNALS}")
    async with (
        TemporalServer(tmp_path / "limited", in_memory=True, extra=limit) as limited,
        open_arena(sqlite_target, temporal_server=limited, confirm_timeout=RESUBMITTING) as arena,
    ):
        _, batcher = await arena.start_workers()
        await arena.pause()
        await arena.start_callers(CALLERS)
        await arena.until_queued(CALLERS)
        full = arena.handles[0]
        for _ in range(MAX_SIGNALS):
            await full.signal(CONFIRMATION_SIGNAL, "malformed")
        await arena.resume()
        outcomes = await arena.audit()
        assert outcomes.completed == CALLERS
        assert outcomes.results[full.id].outcome is Outcome.WRITTEN
        assert batcher.logged(f"caller {full.id} cannot be reached")
        assert (await arena.queue.statistics()).counters["without_caller"] == 2  # for its first submit and its second


def _receipts(outcomes: CallerOutcomes) -> dict[str, tuple[str, str | None]]:
    return {caller: (result.request_id, result.batch_id) for caller, result in outcomes.results.items()}


async def _queued_ids(arena: Arena) -> dict[str, str]:
    """The request id of each caller in the stream, by workflow id."""
    entries: Any = await arena.redis.xrange(arena.queue.stream_key)
    return {json.loads(fields[b"reply"])["workflow_id"]: fields[b"id"].decode() for _, fields in entries}


async def _reset(arena: Arena, handle: Handle) -> Handle:
    """Reset a caller to before its submit, as an operator does."""
    again = await reset(arena.client, handle, (await finished_tasks(handle))[0])
    return arena.client.get_workflow_handle_for(MainWorkflow.run, handle.id, run_id=again.run_id)
