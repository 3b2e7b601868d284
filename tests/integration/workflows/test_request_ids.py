"""The ids of requests, and several submits under one id."""

from dataclasses import replace

import pytest
from temporalio.client import Client

from tests.support.fakes import FakeQueue, written
from tests.support.order_callers import (
    Order,
    Orders,
    Stack,
    about,
    caller,
    failure_of,
    finished_tasks,
    receipts_of,
    reset,
    start,
)
from tests.support.waiting import eventually
from write_batcher.models import CONFIRMATION_SIGNAL, MAX_REQUEST_ID_BYTES, Outcome


async def test_request_id_given_by_the_caller_is_used(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        await receipts_of(await start(client, name, Order(request_id="order-7")))
    assert queue.request_ids == ["order-7"]


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "one after the other"])
async def test_each_submit_of_one_id_is_an_attempt_of_its_own_with_its_own_receipt(
    client: Client, name: str, one_by_one: bool
) -> None:
    # Otherwise a later one could take the receipt of an earlier one, whose entry is not acknowledged yet.
    queue = FakeQueue(lambda request: replace(written(request.request_id), attempt=request.attempt))
    order = Order(items=("tea", "tea"), one_by_one=one_by_one, request_id="order-7")
    async with caller(client, name, queue.enqueue_write):
        receipts = await receipts_of(await start(client, name, order))
    assert len({request.attempt for request in queue.requests}) == 2
    assert [receipt.request_id for receipt in receipts] == ["order-7"] * 2


async def test_rejection_of_one_submit_does_not_end_another_of_the_same_id(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(items=("tea", "tea"), request_id="order-7"))
        await eventually(lambda: len(queue.requests) == 2)
        first, second = queue.requests
        refused = replace(about(first), outcome=Outcome.REJECTED, error="no such column")
        # In one signal: the workflow may have ended before a second one.
        await handle.signal(CONFIRMATION_SIGNAL, [replace(about(second), batch_id="its own"), refused])
        assert [receipt.batch_id for receipt in await receipts_of(handle)] == ["its own"] * 2


async def test_request_id_is_the_same_after_a_reset(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        await receipts_of(handle)
        again = await reset(client, handle, (await finished_tasks(handle))[0])
        assert [receipt.request_id for receipt in await receipts_of(again)] == [queue.request_ids[0]]
    assert len(queue.request_ids) == 2
    assert len(set(queue.request_ids)) == 1


async def test_request_ids_of_a_continued_workflow_never_repeat(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        await receipts_of(await start(client, name, Order(items=("a", "b"), continue_as_new=2)))
    assert len(queue.request_ids) == 6
    assert len(set(queue.request_ids)) == 6


async def test_of_two_records_under_one_id_at_once_the_second_is_rejected(stack: Stack) -> None:
    await stack.drain()
    async with stack.caller():
        failure = await failure_of(await stack.start(items=("tea", "milk"), request_id="order-7"))
    assert (failure.type, "another record" in failure.message) == ("WriteRejected", True)
    assert [row.record for row in stack.sink.rows] == [{"item": "tea"}]


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
