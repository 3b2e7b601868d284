"""MainWorkflow: what it does when its write succeeds, and what it tells the operator when it does not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from tests.support.fakes import FakeQueue, MemorySink, contract_of, receipt_for, written
from tests.support.order_callers import announce, settling
from tests.support.waiting import eventually
from write_batcher.activities.business import BusinessStep, do_business_step
from write_batcher.activities.enqueue import EnqueueActivities
from write_batcher.models import Appended, ConfirmBy, Outcome, QueueRef, Submission
from write_batcher.workers.plugin import with_passthrough
from write_batcher.workflows.main import MainInput, MainResult, MainStatus, MainWorkflow

RESULT_TIMEOUT_S = 20
CONTRACT = contract_of(MemorySink())
ORDER = MainInput(item="tea", cents=450, business_s=0.0)

Handle = WorkflowHandle[MainWorkflow, MainResult]


@asynccontextmanager
async def caller(
    client: Client,
    name: str,
    enqueue: Callable[..., Any],
    business: Callable[..., Any] = do_business_step,
    *,
    runner: WorkflowRunner | None = None,
) -> AsyncIterator[None]:
    async with Worker(
        client,
        task_queue=name,
        workflows=[MainWorkflow],
        activities=[enqueue, business, settling(MemorySink(), name)],
        workflow_runner=runner or with_passthrough(None),
    ):
        yield


async def start(client: Client, name: str, order: MainInput = ORDER) -> Handle:
    order = replace(order, batcher_task_queue=name, queue=name)
    return await client.start_workflow(MainWorkflow.run, order, id=name, task_queue=name)


async def failure_of(handle: Handle) -> ApplicationError:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
    assert isinstance(failure.value.cause, ApplicationError)
    return failure.value.cause


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_main_workflow_completes_with_the_receipt_of_its_write(
    client: Client, name: str, confirm_by: ConfirmBy
) -> None:
    queue = FakeQueue(lambda request: replace(written(request.request_id), batch_id="batch-9", batch_size=42))
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, replace(ORDER, confirm_by=confirm_by))
        async with asyncio.timeout(RESULT_TIMEOUT_S):
            result = await handle.result()
    assert (result.outcome, result.batch_id, result.batch_size) == (Outcome.WRITTEN, "batch-9", 42)
    [request] = queue.requests
    assert (request.request_id, request.table) == (result.request_id, "main_writes")
    assert request.record == {"workflow_id": name, "item": "tea", "cents": 450}


async def test_main_workflow_tells_its_phase(client: Client, name: str) -> None:
    finished = {"prepare": asyncio.Event(), "finish": asyncio.Event()}

    @activity.defn
    async def do_business_step(step: BusinessStep) -> str:
        await finished[step.name].wait()
        return "done"

    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write, do_business_step):
        handle = await start(client, name)
        assert await handle.query(MainWorkflow.status) is MainStatus.PREPARING
        finished["prepare"].set()
        await eventually(lambda: bool(queue.submissions))
        assert await handle.query(MainWorkflow.status) is MainStatus.WRITING
        [request] = queue.requests
        receipt = receipt_for(request, written(request.request_id), queue=name)
        await handle.signal("write_confirmation", [receipt])
        await eventually(lambda: has_status(handle, MainStatus.FINISHING))
        finished["finish"].set()
        await eventually(lambda: has_status(handle, MainStatus.COMPLETED))


async def has_status(handle: Handle, status: MainStatus) -> bool:
    return await handle.query(MainWorkflow.status) is status


async def test_main_workflow_fails_when_its_write_is_rejected(client: Client, name: str) -> None:
    queue = FakeQueue(
        lambda request: replace(written(request.request_id), outcome=Outcome.REJECTED, error="cents must be positive")
    )
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        failure = await failure_of(handle)
        assert await handle.query(MainWorkflow.status) is MainStatus.FAILED
    assert (failure.type, failure.non_retryable) == ("WriteRejected", True)
    assert failure.message == (
        f"The record of request {queue.request_ids[0]!r} for table 'main_writes' is rejected: cents must be positive"
    )


async def test_main_workflow_fails_when_its_write_is_not_confirmed_in_time(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(TimeSkipper(client).client, name)
        failure = await failure_of(handle)
    assert (failure.type, failure.non_retryable) == ("WriteNotConfirmed", True)
    assert f"Request {queue.request_ids[0]!r} is withdrawn: it was not written within 120s" in failure.message
    assert f"Look at the batcher workers, at the workflow write-batcher/{name}/<partition>" in failure.message
    events = [(event.event_type, event.event_time.ToDatetime()) for event in (await handle.fetch_history()).events]
    queued_at = [time for kind, time in events if kind == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED][1]
    assert timedelta(seconds=119) < events[-1][1] - queued_at < timedelta(seconds=130)


async def test_main_workflow_fails_when_its_request_cannot_be_appended(client: Client, name: str, redis: Redis) -> None:
    async with caller(client, name, EnqueueActivities(redis).enqueue_write):
        # No batcher has announced this queue.
        failure = await failure_of(await start(client, name, replace(ORDER, queue=name, submit_timeout_s=1.5)))
    assert (failure.type, failure.non_retryable) == ("WriteNotSubmitted", True)
    assert f"could not be appended to queue '{name}' within 1.5s" in failure.message
    assert f"has no batcher yet: start one with `write-batcher worker batcher --queue {name}`" in failure.message


async def test_main_workflow_fails_at_once_when_its_request_is_too_large(
    client: Client, name: str, redis: Redis
) -> None:
    await announce(redis, QueueRef(namespace="default", name=name), replace(CONTRACT, max_request_bytes=2_000))
    async with caller(client, name, EnqueueActivities(redis).enqueue_write):
        failure = await failure_of(await start(client, name, replace(ORDER, queue=name, item="x" * 3_000)))
    assert (failure.type, failure.non_retryable) == ("WriteNotSubmitted", True)
    assert "bytes encoded, the limit is 2000: store large data elsewhere and write its address" in failure.message


async def test_main_workflow_fails_when_the_stream_stays_full(client: Client, name: str, redis: Redis) -> None:
    await announce(redis, QueueRef(namespace="default", name=name), replace(CONTRACT, max_backlog=0))
    async with caller(client, name, EnqueueActivities(redis).enqueue_write):
        failure = await failure_of(await start(client, name, replace(ORDER, queue=name, submit_timeout_s=4)))
    assert failure.type == "WriteNotSubmitted"
    assert (
        "the limit is 0 (WRITE_BATCHER_MAX_BACKLOG of the batcher): the batcher is behind or not running"
        in failure.message
    )


async def test_main_workflow_names_redis_when_the_append_does_not_answer(client: Client, name: str) -> None:
    given_up = asyncio.Event()

    @activity.defn
    async def enqueue_write(_submission: Submission) -> list[Appended]:
        await given_up.wait()
        return [Appended(entry="0/1-0")]

    async with caller(client, name, enqueue_write):
        failure = await failure_of(await start(client, name, replace(ORDER, queue=name, submit_timeout_s=1.0)))
        given_up.set()
    assert failure.type == "WriteNotSubmitted"
    assert "Redis" in failure.message


async def test_main_workflow_runs_in_a_sandbox_that_loads_the_library_anew(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write, runner=SandboxedWorkflowRunner()):
        handle = await start(client, name)
        async with asyncio.timeout(RESULT_TIMEOUT_S):
            assert (await handle.result()).outcome is Outcome.WRITTEN
