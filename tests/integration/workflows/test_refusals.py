"""Requests that are not appended: told at once where that is certain, settled where it is not, and always with the
first reason.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from temporalio import activity, workflow
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.workflowservice.v1 import RespondActivityTaskFailedByIdRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from tests.support.fakes import MemorySink, contract_of
from tests.support.order_callers import (
    CONFIRMING_MODES,
    Order,
    Stack,
    about,
    announce,
    caller,
    failure_of,
    finished_tasks,
    kinds_of,
    receipts_of,
    reset,
    result_of,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.activities.enqueue import EnqueueActivities
from write_batcher.activities.settle import SettleActivities
from write_batcher.errors import WriteNotSubmitted
from write_batcher.models import (
    CONFIRMATION_SIGNAL,
    Appended,
    Batch,
    ConfirmBy,
    FlushReason,
    Outcome,
    QueueRef,
    ReplyAddress,
    Submission,
    WriteRequest,
)
from write_batcher.workflows.batched_writes import BatchedWrites

both_modes = pytest.mark.parametrize("confirm_by", CONFIRMING_MODES)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NO_BATCHER = Appended(refused="Queue 'orders' has no batcher yet: start one.", later=True)
TOO_LARGE = Appended(refused="Request 'order-7' has 300000 bytes encoded, the limit is 262144.")


class Answering:
    """The activity `enqueue_write` that returns or raises its `answers` in turn, the last one for ever."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.submissions: list[Submission] = []

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> object:
        self.submissions.append(submission)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@both_modes
async def test_request_that_is_certainly_refused_is_not_settled(
    client: Client, name: str, confirm_by: ConfirmBy
) -> None:
    ledger = MemorySink()
    async with caller(client, name, Answering([TOO_LARGE]).enqueue_write, settling(ledger)):
        failure = await failure_of(await start(client, name, Order(confirm_by=confirm_by, batcher_task_queue=name)))
    assert (failure.type, failure.non_retryable) == ("WriteNotSubmitted", True)
    assert "could not be appended to queue 'default': Request 'order-7' has 300000 bytes" in failure.message
    assert ledger.settled == []


@both_modes
@pytest.mark.parametrize(
    "answer",
    [
        [replace(TOO_LARGE, certain=False)],
        ApplicationError("failed by an operator", non_retryable=True),
        ValueError("the codec's key server answered HTML"),
        "text",
        None,
        [],
        [{}],
        [TOO_LARGE, TOO_LARGE],
        {"request_id": 1},
    ],
    ids=str,
)
async def test_append_that_may_have_been_made_is_settled_before_it_fails(
    client: Client, name: str, confirm_by: ConfirmBy, answer: object
) -> None:
    ledger = MemorySink()
    order = Order(confirm_by=confirm_by, batcher_task_queue=name, submit_timeout_s=1.0, confirm_timeout_s=4.0)
    async with caller(client, name, Answering(answer).enqueue_write, settling(ledger)):
        failure = await failure_of(await start(client, name, order))
    assert failure.type == "WriteNotSubmitted"
    assert [receipt.outcome for receipt in ledger.settled] == [Outcome.WITHDRAWN]


@both_modes
@pytest.mark.parametrize("is_written", [True, False], ids=["written", "queued"])
async def test_append_that_an_operator_fails_is_settled(stack: Stack, confirm_by: ConfirmBy, is_written: bool) -> None:
    """`temporal activity fail` on the activity of a caller whose row may be in the table already."""

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        try:
            return await stack.enqueue.enqueue_write(submission)
        finally:
            if is_written:  # by a drain that has not told anybody yet
                [request] = submission.requests
                batch = Batch(batch_id="b1", queue=str(stack.ref), flush_reason=FlushReason.WAIT, requests=(request,))
                await stack.sink.write(batch)
            await fail_by_hand(stack.client)

    async with caller(stack.client, stack.name, enqueue_write):
        handle = await stack.start(confirm_by=confirm_by)
        if is_written:
            assert [receipt.outcome for receipt in await receipts_of(handle)] == [Outcome.WRITTEN]
        else:
            assert (await failure_of(handle)).type == "WriteNotSubmitted"
    await stack.drain()
    await eventually(lambda: stack.holds(0))
    assert len(stack.sink.rows) == (1 if is_written else 0)


async def fail_by_hand(client: Client) -> None:
    info = activity.info()
    failure = Failure(message="by hand", application_failure_info=ApplicationFailureInfo(non_retryable=True))
    await client.workflow_service.respond_activity_task_failed_by_id(
        RespondActivityTaskFailedByIdRequest(
            namespace=client.namespace,
            workflow_id=info.workflow_id or "",
            run_id=info.workflow_run_id or "",
            activity_id=info.activity_id,
            failure=failure,
        )
    )


@both_modes
async def test_write_whose_queue_has_no_batcher_is_certainly_not_written(
    client: Client, name: str, redis: Redis, confirm_by: ConfirmBy
) -> None:
    # Nobody can be asked for the outcome either, because the name is wrong.
    order = Order(queues=(name,), confirm_by=confirm_by, batcher_task_queue=f"{name}-nobody", submit_timeout_s=5.0)
    async with caller(client, name, EnqueueActivities(redis).enqueue_write):
        handle = await start(client, name, order)
        failure = await failure_of(handle)
    assert failure.type == "WriteNotSubmitted"
    assert f"Queue {name!r} has no batcher yet: start one with" in failure.message
    assert (await kinds_of(handle)).count("activity task scheduled") == 2  # at once, and after two seconds


async def test_first_reason_survives_a_later_one(client: Client, name: str) -> None:
    answering = Answering([NO_BATCHER, Appended(entry="0/1-0")], ConnectionError("Redis is away"))
    order = Order(items=("a", "b"), batcher_task_queue=f"{name}-nobody", submit_timeout_s=4.0, settle_timeout_s=1.0)
    async with caller(client, name, answering.enqueue_write):
        failure = await failure_of(await start(client, name, order))
    assert failure.type == "WriteOutcomeUnknown"
    assert "has no batcher yet: start one" in failure.message


async def test_request_that_is_refused_for_now_is_offered_again(client: Client, name: str) -> None:
    appended = Appended(entry="0/1-0")
    answering = Answering([appended, NO_BATCHER, appended], [NO_BATCHER], [appended])
    async with caller(client, name, answering.enqueue_write):
        handle = await start(client, name, Order(items=("a", "b", "c")))
        await eventually(lambda: len(answering.submissions) == 3)
        first = answering.submissions[0].requests
        assert [submission.requests for submission in answering.submissions[1:]] == [[first[1]]] * 2
        await handle.signal(CONFIRMATION_SIGNAL, [about(request) for request in first])
        assert len(await receipts_of(handle)) == 3


async def test_confirm_timeout_that_is_not_above_max_wait_is_refused_with_both(
    client: Client, name: str, redis: Redis
) -> None:
    ref = QueueRef(namespace=client.namespace, name=name)
    await announce(redis, ref, contract_of(MemorySink()))
    async with caller(client, name, EnqueueActivities(redis).enqueue_write):
        order = Order(queues=(name,), confirm_timeout_s=10.0, batcher_task_queue=f"{name}-nobody")
        failure = await failure_of(await start(client, name, order))
    assert failure.type == "WriteNotSubmitted"
    assert "confirm_timeout is 10 s, and a batch may stay open for max_wait, 20 s" in failure.message


async def test_refusal_after_a_reset_is_settled_because_the_run_before_may_have_appended(
    client: Client, name: str, redis: Redis
) -> None:
    """The run before the reset appended; now the queue refuses the same request for good."""
    ref = QueueRef(namespace=client.namespace, name=name)
    await announce(redis, ref, contract_of(MemorySink()))
    ledger = MemorySink()
    order = Order(queues=(name,), items=("x" * 5_000,), batcher_task_queue=name)
    async with caller(client, name, EnqueueActivities(redis).enqueue_write, settling(ledger, name)):
        handle = await start(client, name, order)
        await eventually(lambda: has_completed(handle))
        await announce(redis, ref, replace(contract_of(MemorySink()), max_request_bytes=2_000))
        await asyncio.sleep(2.1)  # not to synchronise: for so long the activity remembers the contract
        again = await reset(client, handle, (await finished_tasks(handle))[0])
        failure = await failure_of(again)
    assert (failure.type, "the limit is 2000" in failure.message) == ("WriteNotSubmitted", True)
    assert [receipt.outcome for receipt in ledger.settled] == [Outcome.WITHDRAWN]


async def has_completed(handle: Any) -> bool:
    return "activity task completed" in await kinds_of(handle)


@workflow.defn
class GoingOn:
    """Goes on after a write that is refused; returns what it caught."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = BatchedWrites(order.options(order.queues[0]))

    @workflow.run
    async def run(self, order: Order) -> str:
        try:
            await self.writes.submit("orders", {"item": "tea"})
        except WriteNotSubmitted as refused:
            await workflow.sleep(0.01)
            return str(refused)
        return "written"


async def test_certain_refusal_is_replayed_alike_after_a_reset_to_a_later_task(client: Client, name: str) -> None:
    ledger = MemorySink()

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        run_id = activity.info().workflow_run_id
        certain = all(request.reply and request.reply.run_id == run_id for request in submission.requests)
        return [replace(TOO_LARGE, certain=certain)]

    async with caller(client, name, enqueue_write, settling(ledger), workflows=[GoingOn]):
        handle: Any = await client.start_workflow(GoingOn.run, Order(batcher_task_queue=name), id=name, task_queue=name)
        first = await result_of(handle)
        again = await reset(client, handle, (await finished_tasks(handle))[-1])
        assert await result_of(client.get_workflow_handle(name, run_id=again.run_id)) == first
    assert ledger.settled == []


def request_of(run_id: str) -> WriteRequest:
    reply = ReplyAddress(workflow_id="caller", run_id=run_id, attempt="try")
    return WriteRequest(request_id="order-7", table="unknown", record={}, reply=reply)


async def enqueue_in(info: Any, client: Client, redis: Redis, queue: str, run_id: str) -> list[Appended]:
    environment = ActivityEnvironment(client)
    environment.info = info
    submission = Submission(queue=queue, requests=[request_of(run_id), replace(request_of(run_id), table="orders")])
    return await environment.run(EnqueueActivities(redis).enqueue_write, submission)


@pytest.mark.parametrize(
    ("changes", "run_id", "certain"),
    [
        ({}, "run", True),
        ({"attempt": 2, "current_attempt_scheduled_time": NOW + timedelta(seconds=1)}, "run", False),
        ({"current_attempt_scheduled_time": NOW + timedelta(seconds=1)}, "run", False),
        ({}, "the run before the reset", False),
    ],
    ids=["first try", "second try", "first try after an operator reset the activity", "workflow was reset"],
)
async def test_refusal_is_certain_for_the_first_try_of_the_first_run_only(
    client: Client, name: str, redis: Redis, changes: dict[str, Any], run_id: str, certain: bool
) -> None:
    contract = replace(contract_of(MemorySink()), tables={"orders": "insert"})
    await announce(redis, QueueRef(namespace=client.namespace, name=name), contract)
    info = replace(
        ActivityEnvironment.default_info(),
        scheduled_time=NOW,
        current_attempt_scheduled_time=NOW,
        workflow_run_id="run",
    )
    refused, appended = await enqueue_in(replace(info, **changes), client, redis, name, run_id)
    assert (appended.entry is not None, refused.refused is not None, refused.certain) == (True, True, certain)


async def test_append_whose_requests_are_all_refused_for_now_is_retried_without_history(
    client: Client, name: str, redis: Redis
) -> None:
    queue = QueueRef(namespace=client.namespace, name=name)
    without_table = replace(contract_of(MemorySink()), tables={"another": "insert"})
    await announce(redis, queue, without_table)
    async with caller(client, name, EnqueueActivities(redis).enqueue_write):
        handle = await start(client, name, Order(queues=(name,), submit_timeout_s=30.0))
        await eventually(lambda: is_retried(handle))
        await announce(redis, queue, replace(without_table, tables={"another": "insert", "orders": "insert"}))
        await eventually(lambda: has_completed(handle))
        assert (await kinds_of(handle)).count("activity task scheduled") == 1
        await handle.terminate()


async def is_retried(handle: Any) -> bool:
    pending = (await handle.describe()).raw_description.pending_activities
    return any(one.attempt > 1 and one.last_failure.application_failure_info.type == "NotAccepted" for one in pending)


@pytest.mark.parametrize("requests", [0, 2])
async def test_submission_that_no_answer_could_fit_is_refused(client: Client, redis: Redis, requests: int) -> None:
    reply = ReplyAddress(workflow_id="caller", run_id="run", attempt="try", mode=ConfirmBy.COMPLETION)
    submission = Submission(queue="any", requests=[replace(request_of("run"), reply=reply)] * requests)
    with pytest.raises(ApplicationError, match=f"has {requests} requests") as refused:
        await ActivityEnvironment(client).run(EnqueueActivities(redis).enqueue_write, submission)
    assert refused.value.non_retryable


async def test_settling_in_a_worker_with_another_sink_is_refused() -> None:
    contract = contract_of(MemorySink(sink_id="the queue's"))
    ref = QueueRef(namespace="default", name="default")
    activities = SettleActivities(ref, MemorySink(sink_id="another"), lambda: contract)
    submission = Submission(queue="default", requests=[request_of("run")])
    with pytest.raises(ApplicationError, match='is written to the sink "the queue\'s"') as refused:
        await ActivityEnvironment().run(activities.settle_write, submission)
    assert (refused.value.type, refused.value.non_retryable) == ("WrongSink", True)
