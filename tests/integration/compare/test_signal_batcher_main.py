"""The caller of the older design with a batcher of the original demo."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import TimeSkipper
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.order_callers import kinds_of
from tests.support.waiting import eventually
from write_batcher.compare.signal_batcher.caller_workflow import (
    CallerStatus,
    SignalMainInput,
    SignalMainResult,
    SignalMainWorkflow,
)
from write_batcher.compare.signal_batcher.roles import make_main_worker
from write_batcher.config import load_settings

RESULT_TIMEOUT_S = 20
SUCCESS: dict[str, Any] = {"status": "success", "count": 12, "batch_id": "batch-7", "batch_size": 12}

Handle = WorkflowHandle[SignalMainWorkflow, SignalMainResult]


@workflow.defn
class OriginalBatcher:
    """A batcher of the original that answers its first request with signals given by the test."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    @workflow.run
    async def run(self, answers: list[list[Any]]) -> None:
        await workflow.wait_condition(lambda: bool(self.requests))
        caller = workflow.get_external_workflow_handle(self.requests[0]["requesting_workflow"])
        for arguments in answers:
            await caller.signal("write_confirmation", args=arguments)
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def add_write_request(self, request: dict[str, Any]) -> None:
        self.requests.append(request)

    @workflow.query
    def received(self) -> list[dict[str, Any]]:
        return self.requests


@asynccontextmanager
async def caller(client: Client, name: str) -> AsyncIterator[Callable[..., Any]]:
    """Run a worker for callers and one for batchers of the original; yield a function that starts a caller."""
    batchers = Worker(
        client,
        task_queue=f"{name}-batcher",
        workflows=[OriginalBatcher],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )

    async def start(order: SignalMainInput | None = None, *, within: Client = client) -> Handle:
        order = order or SignalMainInput(item="tea", cents=450)
        order = replace(order, queue=name, business_s=0.0)
        return await within.start_workflow(SignalMainWorkflow.run, order, id=name, task_queue=f"{name}-main")

    async with batchers, make_main_worker(client, load_settings(main_task_queue=f"{name}-main")):
        yield start


async def start_batcher(client: Client, name: str, *answers: Any) -> WorkflowHandle[Any, Any]:
    """Start a batcher that sends a signal for each of `answers`: its only argument, or a list of arguments."""
    arguments = [answer if isinstance(answer, list) else [answer] for answer in answers]
    return await client.start_workflow(
        OriginalBatcher.run, arguments, id=f"{name}/batcher-main", task_queue=f"{name}-batcher"
    )


async def result_of(handle: Handle) -> SignalMainResult:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        return await handle.result()


async def failure_of(handle: Handle) -> ApplicationError:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.non_retryable
    assert await handle.query("get_status", result_type=CallerStatus) is CallerStatus.FAILED
    return failure.value.cause


async def test_caller_understands_a_batcher_of_the_original(client: Client, name: str) -> None:
    batcher = await start_batcher(client, name, SUCCESS)
    async with caller(client, name) as start:
        handle = await start()
        result = await result_of(handle)
        [request] = await batcher.query("received")
        assert await handle.query("get_status") == "completed"
    run_id = (await handle.describe()).run_id
    assert request.pop("submitted_at").startswith("20")
    assert request == {
        "workflow_id": name,
        "data": {"workflow_id": name, "item": "tea", "cents": 450},
        "requesting_workflow": name,
        "request_id": f"{name}/{run_id}",
        "attempt": 1,
    }
    assert (result.batch_id, result.batch_size) == ("batch-7", 12)
    assert result.request_id == f"{name}/{run_id}"


async def test_write_costs_two_signals_and_a_timer(client: Client, name: str) -> None:
    await start_batcher(client, name, SUCCESS)
    async with caller(client, name) as start:
        handle = await start()
        await result_of(handle)
    step = ["activity task scheduled", "activity task started", "activity task completed"]
    signal = ["signal external workflow execution initiated", "external workflow execution signaled"]
    kinds = await kinds_of(handle)
    assert kinds[:4] == ["workflow execution started", *step]
    assert kinds[-4:] == [*step, "workflow execution completed"]
    # The confirmation may come before the answer to the signal that submits the request.
    assert sorted(kinds[4:-4]) == sorted([*signal, "timer started", "workflow execution signaled", "timer canceled"])


async def test_caller_ignores_malformed_and_foreign_confirmations(client: Client, name: str) -> None:
    malformed = [None, "success", 5, [], [SUCCESS, "more"][1:], {}, {"status": "success"}, SUCCESS | {"count": "x"}]
    foreign = SUCCESS | {"request_id": "another", "batch_id": "foreign"}
    first_counts = SUCCESS | {"batch_id": "first"}
    await start_batcher(client, name, *malformed, foreign, [first_counts, "more"], SUCCESS | {"status": "failed"})
    async with caller(client, name) as start:
        assert (await result_of(await start())).batch_id == "first"


async def test_caller_fails_with_write_rejected_when_its_write_failed(client: Client, name: str) -> None:
    await start_batcher(client, name, SUCCESS | {"status": "failed"})
    async with caller(client, name) as start:
        failure = await failure_of(await start())
    assert failure.type == "WriteRejected"
    assert "reports failure and gives no reason" in failure.message


async def test_caller_fails_with_write_outcome_unknown_and_the_reason(client: Client, name: str) -> None:
    unknown = {"status": "failed", "error": "the database is down", "is_certain": False}
    await start_batcher(client, name, SUCCESS | unknown)
    async with caller(client, name) as start:
        failure = await failure_of(await start())
    assert failure.type == "WriteOutcomeUnknown"
    assert "the database is down" in failure.message


async def test_caller_fails_with_confirmation_timed_out_after_two_minutes(client: Client, name: str) -> None:
    await start_batcher(client, name)
    async with caller(client, name) as start:
        handle = await start(within=TimeSkipper(client).client)
        failure = await failure_of(handle)
    assert failure.type == "ConfirmationTimedOut"
    assert "was not confirmed within 120s" in failure.message
    events = (await handle.fetch_history()).events
    fired = [event for event in events if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED]
    started = [event for event in events if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED]
    waited = fired[-1].event_time.ToDatetime() - started[-1].event_time.ToDatetime()
    assert timedelta(seconds=119) < waited < timedelta(seconds=130)


async def test_caller_fails_with_write_not_submitted_without_a_batcher(client: Client, name: str) -> None:
    async with caller(client, name) as start:
        handle = await start(
            SignalMainInput(item="tea", cents=450, submit_timeout_s=30), within=TimeSkipper(client).client
        )
        failure = await failure_of(handle)
    assert failure.type == "WriteNotSubmitted"
    assert f"by batcher '{name}/batcher-main' within 30s" in failure.message
    assert "write-batcher signal-batcher worker batcher" in failure.message
    kinds = await kinds_of(handle)
    # It backs off: not one per second.
    assert 3 <= kinds.count("signal external workflow execution initiated") <= 8


async def test_caller_submits_again_until_there_is_a_batcher(client: Client, name: str) -> None:
    async with caller(client, name) as start:
        handle = await start()
        await eventually(lambda: _was_refused(handle))
        batcher = await start_batcher(client, name, SUCCESS)
        assert (await result_of(handle)).batch_id == "batch-7"
        [request] = await batcher.query("received")
    assert request["attempt"] >= 2


async def _was_refused(handle: Handle) -> bool:
    return "signal external workflow execution failed" in await kinds_of(handle)


async def test_caller_fails_at_once_when_its_record_is_too_large(client: Client, name: str) -> None:
    await start_batcher(client, name, SUCCESS)
    async with caller(client, name) as start:
        failure = await failure_of(await start(SignalMainInput(item="x" * 600_000, cents=1)))
    assert failure.type == "WriteNotSubmitted"
    assert "the limit is 500000" in failure.message
