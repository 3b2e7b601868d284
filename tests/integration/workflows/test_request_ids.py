"""The ids of requests, and requests that are refused before they reach the queue."""

from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.fakes import FakeQueue, written
from tests.support.order_callers import (
    Order,
    Orders,
    caller,
    failure_of,
    finished_tasks,
    receipts_of,
    reset,
    start,
)
from write_batcher.models import MAX_REQUEST_ID_BYTES, ConfirmBy
from write_batcher.workflows.batched_writes import BatchedWrites


async def test_request_id_given_by_the_caller_is_used(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        await receipts_of(await start(client, name, Order(request_id="order-7")))
    assert queue.request_ids == ["order-7"]


async def test_concurrent_submits_of_one_record_are_one_call(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        await receipts_of(await start(client, name, Order(items=("tea", "tea"), request_id="order-7")))
    assert [one.request.reply and one.request.reply.call for one in queue.submissions] == [1, 1]


async def test_unconfirmed_call_does_not_bind_the_next_one(client: Client, name: str) -> None:
    queue = FakeQueue()
    order = Order(items=("tea", "tea"), one_by_one=True, request_id="order-7", confirm_by=ConfirmBy.NONE)
    async with caller(client, name, queue.enqueue_write):
        await receipts_of(await start(client, name, order))
    assert len({one.request.attempt for one in queue.submissions}) == 2


async def test_id_that_is_submitted_anew_is_a_new_call(client: Client, name: str) -> None:
    # Otherwise the second would wait for a receipt that the first has had, as long as their entry is not acknowledged.
    queue = FakeQueue(lambda request: written(request.request_id))
    order = Order(items=("tea", "tea"), one_by_one=True, request_id="order-7")
    async with caller(client, name, queue.enqueue_write):
        assert await receipts_of(await start(client, name, order)) == [written("order-7")] * 2
    assert [one.request.reply and one.request.reply.call for one in queue.submissions] == [1, 2]


@pytest.mark.parametrize("request_id", ["", "x" * (MAX_REQUEST_ID_BYTES + 1), "é" * 257])
async def test_request_id_of_wrong_length_is_refused_before_any_activity(
    client: Client, name: str, request_id: str
) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        failure = await failure_of(await start(client, name, Order(request_id=request_id)))
    assert failure.type == "WriteNotSubmitted"
    assert f"has {len(request_id.encode())} bytes: use 1 to 512" in failure.message
    assert queue.submissions == []


async def test_request_id_is_the_same_after_a_reset(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        await receipts_of(handle)
        again = await reset(client, handle, (await finished_tasks(handle))[0])
        assert await receipts_of(again) == [written(queue.request_ids[0])]
    assert len(queue.request_ids) == 2
    assert len(set(queue.request_ids)) == 1


async def test_request_ids_of_a_continued_workflow_never_repeat(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        await receipts_of(await start(client, name, Order(items=("a", "b"), continue_as_new=2)))
    assert len(queue.request_ids) == 6
    assert len(set(queue.request_ids)) == 6


async def test_concurrent_submits_of_two_records_under_one_id_are_refused(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(items=("tea", "milk"), request_id="order-1"))
        with pytest.raises(WorkflowFailureError) as failure:
            await receipts_of(handle)
    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "WriteRejected"
    assert "Request id 'order-1' is being submitted with another record" in failure.value.cause.message


async def test_default_request_id_of_a_long_workflow_id_is_short_and_unique(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        handles = [
            await client.start_workflow(Orders.run, Order(), id=f"{name}{'x' * 900}{end}", task_queue=name)
            for end in "ab"
        ]
        for handle in handles:
            await receipts_of(handle)
    assert len(set(queue.request_ids)) == 2
    assert max(len(request_id.encode()) for request_id in queue.request_ids) <= MAX_REQUEST_ID_BYTES


@workflow.defn
class BadRecord:
    """Submits a record that no entry can carry. It is made here, because no workflow input can carry it either."""

    @workflow.init
    def __init__(self, kind: str) -> None:
        self.writes = BatchedWrites()

    @workflow.run
    async def run(self, kind: str) -> None:
        nested: list[Any] = []
        for _ in range(10_000):
            nested = [nested]
        records: dict[str, Any] = {"object": object(), "nested": nested, "huge": "x" * 1_100_000}
        await self.writes.submit("orders", {"item": records[kind]})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("object", "cannot be encoded"),
        ("nested", "cannot be encoded"),
        ("huge", "the limit is 1000000"),
    ],
)
async def test_record_that_cannot_be_encoded_fails_its_workflow_at_once(
    client: Client, name: str, kind: str, reason: str
) -> None:
    queue = FakeQueue()
    async with Worker(
        client,
        task_queue=name,
        workflows=[BadRecord],
        activities=[queue.enqueue_write],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handle = await client.start_workflow(BadRecord.run, kind, id=name, task_queue=name)
        failure = await failure_of(handle)
    assert (failure.type, failure.non_retryable) == ("WriteNotSubmitted", True)
    assert reason in failure.message
    assert "'orders'" in failure.message
    assert queue.submissions == []
