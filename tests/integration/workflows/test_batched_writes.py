"""BatchedWrites in real workflows: every receipt reaches its submit, whatever else is sent to the workflow."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker

from tests.support.fakes import FakeQueue, MemorySink, receipt_for, written
from tests.support.order_callers import (
    RESULT_TIMEOUT_S,
    Order,
    Orders,
    Stack,
    about,
    caller,
    failure_of,
    kinds_of,
    receipts_of,
    replays,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.models import (
    CONFIRMATION_SIGNAL,
    Appended,
    ConfirmBy,
    Outcome,
    Submission,
    WriteReceipt,
    WriteRequest,
)
from write_batcher.workflows.write_options import WriteOptions

APPENDED = [Appended(entry="0/1-0")]


async def confirm(handle: WorkflowHandle[Orders, list[WriteReceipt]], receipts: Sequence[WriteReceipt]) -> None:
    await handle.signal(CONFIRMATION_SIGNAL, list(receipts))


@pytest.mark.parametrize("outcome", [Outcome.WRITTEN, Outcome.DUPLICATE])
async def test_submit_returns_the_receipt(client: Client, name: str, outcome: Outcome) -> None:
    queue = FakeQueue(lambda request: replace(written(request.request_id), outcome=outcome))
    async with caller(client, name, queue.enqueue_write):
        receipts = await receipts_of(await start(client, name))
    assert receipts == [replace(about(queue.requests[0]), outcome=outcome)]


async def test_submit_names_the_queue_the_record_and_the_reply_address(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(queues=("orders",)))
        await receipts_of(handle)
    [submission] = queue.submissions
    assert submission.queue == "orders"
    [request] = submission.requests
    assert (request.table, request.record, submission.confirm_timeout_ms) == ("orders", {"item": "only"}, 120_000)
    assert request.reply is not None
    assert (request.reply.workflow_id, request.reply.run_id) == (handle.id, handle.first_execution_run_id)
    assert request.reply.attempt
    assert (request.reply.mode, request.reply.activity_id) == (ConfirmBy.SIGNAL, None)


async def test_submit_names_the_same_attempt_every_time(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write, settling(MemorySink()), cached=0):
        handle = await start(client, name, Order(batcher_task_queue=name, confirm_timeout_s=1.0))
        assert (await failure_of(handle)).type == "WriteNotConfirmed"
    assert len(queue.submissions) == 2
    assert len({(request.attempt, request.asked_ms) for request in queue.requests}) == 1


async def test_concurrent_submits_each_get_their_own_receipt(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(items=("a", "b", "c")))
        await eventually(lambda: len(queue.requests) == 3)
        told = {request.record["item"]: about(request) for request in queue.requests}
        await confirm(handle, [told["c"], told["a"]])
        await confirm(handle, [told["b"]])
        assert await receipts_of(handle) == [told["a"], told["b"], told["c"]]


async def test_submits_to_two_queues_share_one_workflow(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        receipts = await receipts_of(await start(client, name, Order(queues=("east", "west"))))
    assert {submission.queue for submission in queue.submissions} == {"east", "west"}
    assert len({receipt.request_id for receipt in receipts}) == 2


async def test_receipt_ends_the_submit_before_the_append_has_returned(client: Client, name: str) -> None:
    appended: list[WriteRequest] = []
    test_is_over = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        appended.extend(submission.requests)
        await test_is_over.wait()
        return APPENDED

    async with caller(client, name, enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: bool(appended))
        await confirm(handle, [about(appended[0])])
        assert await receipts_of(handle) == [about(appended[0])]
        test_is_over.set()


async def test_receipt_and_result_of_the_append_may_come_in_one_workflow_task(client: Client, name: str) -> None:
    appended: list[WriteRequest] = []
    may_return = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        appended.extend(submission.requests)
        await may_return.wait()
        return APPENDED

    async with Worker(client, task_queue=name, activities=[enqueue_write]):
        async with caller(client, name):
            handle = await start(client, name)
            await eventually(lambda: bool(appended))
        await confirm(handle, [about(appended[0])])
        may_return.set()
        await eventually(lambda: has_appended(handle))
        async with caller(client, name):
            assert await receipts_of(handle) == [about(appended[0])]
            await replays(handle)


async def has_appended(handle: WorkflowHandle[Any, Any]) -> bool:
    return "activity task completed" in await kinds_of(handle)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [None],
        [7],
        ["receipt"],
        [{"request_id": "x", "outcome": "written"}],
        [[]],
        [[None, 7, "receipt", [], {}, {"request_id": None}, {"request_id": "x", "outcome": "burnt"}]],
        [[{"request_id": ["x"], "outcome": {}}, {"outcome": "written"}]],
        [[{"request_id": "unknown", "outcome": "written"}]],
        [[{"request_id": "unknown", "outcome": "written"}], "second"],
        [None, None, None],
        [b"\xff\x00"],
        [RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b"{not json"))],
        [RawValue(Payload(metadata={"encoding": b"no/such-encoding"}, data=b"\xff"))],
    ],
    ids=lambda arguments: str(arguments)[:40],
)
async def test_confirmation_that_is_malformed_is_ignored(client: Client, name: str, arguments: list[Any]) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: bool(queue.submissions))
        await handle.signal(CONFIRMATION_SIGNAL, args=arguments)
        await confirm(handle, [about(queue.requests[0])])
        assert await receipts_of(handle) == [about(queue.requests[0])]


async def test_confirmation_survives_garbage_in_the_same_list(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: bool(queue.submissions))
        good = about(queue.requests[0])
        await handle.signal(CONFIRMATION_SIGNAL, args=[[None, {"request_id": 1}, good, "receipt"], "second argument"])
        assert await receipts_of(handle) == [good]


async def test_confirmation_that_comes_first_is_final(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(items=("a", "b")))
        await eventually(lambda: len(queue.requests) == 2)
        first, second = map(about, queue.requests)
        late = replace(first, outcome=Outcome.REJECTED, error="too late")
        await confirm(handle, [first, first, late])
        await confirm(handle, [late])
        await confirm(handle, [second])
        receipts = await receipts_of(handle)
    assert sorted(receipts, key=lambda receipt: receipt.request_id) == sorted(
        [first, second], key=lambda receipt: receipt.request_id
    )


async def test_receipt_of_one_queue_does_not_count_for_another(client: Client, name: str) -> None:
    queue = FakeQueue()
    order = Order(queues=("east", "west"), request_id="order-7")
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, order)
        await eventually(lambda: len(queue.submissions) == 2)
        told = {
            submission.queue: receipt_for(submission.requests[0], written("order-7"), queue=submission.queue)
            for submission in queue.submissions
        }
        await confirm(handle, [told["west"], replace(told["west"], queue=None)])
        await confirm(handle, [replace(told["east"], batch_id="batch of the east")])
        receipts = await receipts_of(handle)
    assert [receipt.batch_id for receipt in receipts] == ["batch of the east", "batch-1"]


async def test_confirmation_before_the_submit_does_not_stop_the_workflow(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    handle = await client.start_workflow(
        Orders.run,
        Order(request_id="order-7"),
        id=name,
        task_queue=name,
        start_signal=CONFIRMATION_SIGNAL,
        start_signal_args=[[written("order-7")]],
    )
    async with caller(client, name, queue.enqueue_write):
        assert await receipts_of(handle) == [about(queue.requests[0])]


async def test_submit_that_nobody_confirms_is_repeated_once_under_the_same_id(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write, settling(MemorySink())):
        handle = await start(TimeSkipper(client).client, name, Order(batcher_task_queue=name))
        assert (await failure_of(handle)).type == "WriteNotConfirmed"
    assert len(queue.request_ids) == 2
    assert len(set(queue.request_ids)) == 1


async def test_submit_that_is_refused_when_repeated_still_waits_for_its_receipt(client: Client, name: str) -> None:
    appended: list[WriteRequest] = []

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        appended.extend(submission.requests)
        if len(appended) > 1:
            raise ApplicationError("Redis is away", non_retryable=True)
        return APPENDED

    async with caller(client, name, enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: len(appended) == 1)
        await pass_half_of_the_timeout(client, handle)
        await eventually(lambda: len(appended) == 2)
        await confirm(handle, [about(appended[0])])
        assert await receipts_of(handle) == [about(appended[0])]


async def pass_half_of_the_timeout(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    half = WriteOptions().confirm_timeout / 2
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        await TimeSkipper(client).fast_forward(handle, half + timedelta(seconds=1))


async def test_entry_that_redis_lost_is_submitted_again_and_written(stack: Stack) -> None:
    async with stack.caller():
        handle = await stack.start()
        await eventually(lambda: stack.holds(1))
        await stack.redis.delete(stack.queue.stream_key)
        await pass_half_of_the_timeout(stack.client, handle)
        await stack.drain()
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN
    assert [row.request_id for row in stack.sink.rows] == [receipt.request_id]
