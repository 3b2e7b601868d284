"""BatchedWrites in real workflows: every receipt reaches its submit, whatever else is sent to the workflow."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker

from tests.support.fakes import FakeQueue, MemorySink, written
from tests.support.order_callers import (
    RESULT_TIMEOUT_S,
    Order,
    Orders,
    batcher,
    caller,
    failure_of,
    finished_tasks,
    kinds_of,
    receipts_of,
    replays,
    start,
    start_draining,
)
from tests.support.redis_kinds import AnyRedis
from tests.support.waiting import eventually
from write_batcher.activities.drain import take
from write_batcher.activities.enqueue import EnqueueActivities
from write_batcher.activities.settle import SettleActivities
from write_batcher.models import (
    CONFIRMATION_SIGNAL,
    ConfirmBy,
    Outcome,
    Submission,
    WriteReceipt,
)
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import WriteQueue
from write_batcher.workflows.write_options import OnRejected, WriteOptions


async def confirm(handle: WorkflowHandle[Orders, list[WriteReceipt]], receipts: Sequence[WriteReceipt]) -> None:
    await handle.signal(CONFIRMATION_SIGNAL, list(receipts))


@pytest.mark.parametrize("outcome", [Outcome.WRITTEN, Outcome.DUPLICATE])
async def test_submit_returns_the_receipt(client: Client, name: str, outcome: Outcome) -> None:
    queue = FakeQueue(lambda request: replace(written(request.request_id), outcome=outcome))
    async with caller(client, name, queue.enqueue_write):
        receipts = await receipts_of(await start(client, name))
    assert receipts == [replace(written(queue.request_ids[0]), outcome=outcome)]


async def test_submit_names_the_queue_the_record_and_the_reply_address(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(queues=("orders",)))
        await receipts_of(handle)
    [submission] = queue.submissions
    assert submission.queue == "orders"
    assert (submission.request.table, submission.request.record) == ("orders", {"item": "only"})
    assert submission.request.reply is not None
    assert submission.request.reply.workflow_id == handle.id
    assert submission.request.reply.run_id == handle.first_execution_run_id
    assert submission.request.reply.attempt
    assert (submission.request.reply.mode, submission.request.reply.activity_id) == (ConfirmBy.SIGNAL, None)


async def test_submit_names_the_same_attempt_every_time(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(
        client, name, queue.enqueue_write, SettleActivities("default", MemorySink()).settle_write, cached=0
    ):
        handle = await start(client, name, Order(batcher_task_queue=name, confirm_timeout_s=1.0))
        assert (await failure_of(handle)).type == "WriteNotConfirmed"
    assert len(queue.submissions) == 2
    assert len({submission.request.attempt for submission in queue.submissions}) == 1


async def test_concurrent_submits_each_get_their_own_receipt(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(items=("a", "b", "c")))
        await eventually(lambda: len(queue.submissions) == 3)
        ids = {submission.request.record["item"]: submission.request.request_id for submission in queue.submissions}
        await confirm(handle, [written(ids["c"]), written(ids["a"])])
        await confirm(handle, [written(ids["b"])])
        receipts = await receipts_of(handle)
    assert [receipt.request_id for receipt in receipts] == [ids["a"], ids["b"], ids["c"]]


async def test_submits_to_two_queues_share_one_workflow(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with caller(client, name, queue.enqueue_write):
        receipts = await receipts_of(await start(client, name, Order(queues=("east", "west"))))
    assert {submission.queue for submission in queue.submissions} == {"east", "west"}
    assert len({receipt.request_id for receipt in receipts}) == 2


async def test_receipt_ends_the_submit_before_the_append_has_returned(client: Client, name: str) -> None:
    appended: list[str] = []
    test_is_over = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> str:
        appended.append(submission.request.request_id)
        await test_is_over.wait()
        return "0/1-0"

    async with caller(client, name, enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: bool(appended))
        await confirm(handle, [written(appended[0])])
        assert await receipts_of(handle) == [written(appended[0])]
        test_is_over.set()


async def test_receipt_and_result_of_the_append_may_come_in_one_workflow_task(client: Client, name: str) -> None:
    appended: list[str] = []
    may_return = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> str:
        appended.append(submission.request.request_id)
        await may_return.wait()
        return "0/1-0"

    async with Worker(client, task_queue=name, activities=[enqueue_write]):
        async with caller(client, name):
            handle = await start(client, name)
            await eventually(lambda: bool(appended))
        await confirm(handle, [written(appended[0])])
        may_return.set()
        await eventually(lambda: has_appended(handle))
        async with caller(client, name):
            assert await receipts_of(handle) == [written(appended[0])]
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
        await confirm(handle, [written(queue.request_ids[0])])
        assert await receipts_of(handle) == [written(queue.request_ids[0])]


async def test_confirmation_survives_garbage_in_the_same_list(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: bool(queue.submissions))
        good = written(queue.request_ids[0])
        await handle.signal(CONFIRMATION_SIGNAL, args=[[None, {"request_id": 1}, good, "receipt"], "second argument"])
        assert await receipts_of(handle) == [good]


async def test_confirmation_that_comes_first_is_final(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, Order(items=("a", "b")))
        await eventually(lambda: len(queue.submissions) == 2)
        first, second = (written(request_id) for request_id in queue.request_ids)
        late = replace(first, outcome=Outcome.REJECTED, error="too late")
        await confirm(handle, [first, first, late])
        await confirm(handle, [late])
        await confirm(handle, [second])
        receipts = await receipts_of(handle)
    assert sorted(receipts, key=lambda receipt: receipt.request_id) == sorted(
        [first, second], key=lambda receipt: receipt.request_id
    )


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.WITHDRAWN])
async def test_confirmation_of_another_attempt_binds_only_when_it_says_written(
    client: Client, name: str, outcome: Outcome
) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: bool(queue.submissions))
        other = replace(written(queue.request_ids[0]), attempt="another")
        await confirm(handle, [replace(other, outcome=outcome, error="no such column")])
        await confirm(handle, [other])
        assert await receipts_of(handle) == [other]


async def has_run_more_tasks(handle: WorkflowHandle[Orders, list[WriteReceipt]], tasks: list[int]) -> bool:
    return await finished_tasks(handle) > tasks


async def test_receipt_of_one_queue_does_not_count_for_another(client: Client, name: str) -> None:
    answered: list[str] = []

    @activity.defn
    async def enqueue_write(submission: Submission) -> str:
        if submission.queue == "west":
            await eventually(lambda: "east" in answered)
            raise ApplicationError("Redis is away")
        handle = client.get_workflow_handle(name)
        receipt = replace(written(submission.request.request_id), queue=submission.queue)
        await handle.signal(CONFIRMATION_SIGNAL, [receipt])
        answered.append(submission.queue)
        return "0/1-0"

    order = Order(queues=("east", "west"), request_id="order-7", submit_timeout_s=1.0, batcher_task_queue=name)
    settle = {"east": SettleActivities("east", MemorySink()), "west": SettleActivities("west", MemorySink())}
    async with caller(client, name, enqueue_write, settle["west"].settle_write):
        failure = await failure_of(await start(client, name, order))
    assert failure.type == "WriteNotSubmitted"


async def test_two_submits_that_wait_for_one_replay_both_learn_of_it(client: Client, name: str) -> None:
    queue = FakeQueue()
    order = Order(items=("tea", "tea"), request_id="order-7", on_rejected=OnRejected.WAIT)
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, order)
        await eventually(lambda: len(queue.submissions) == 2)
        reply = queue.submissions[0].request.reply
        assert reply is not None
        told = replace(written("order-7"), attempt=reply.attempt)
        for error in ("no such column", "still no such column"):
            tasks = await finished_tasks(handle)
            await confirm(handle, [replace(told, outcome=Outcome.REJECTED, error=error)])
            await eventually(partial(has_run_more_tasks, handle, tasks))
        await confirm(handle, [told])
        assert await receipts_of(handle) == [told] * 2


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
        assert await receipts_of(handle) == [written("order-7")]


async def test_submit_that_nobody_confirms_is_repeated_once_under_the_same_id(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write, SettleActivities("default", MemorySink()).settle_write):
        handle = await start(TimeSkipper(client).client, name, Order(batcher_task_queue=name))
        assert (await failure_of(handle)).type == "WriteNotConfirmed"
    assert len(queue.request_ids) == 2
    assert len(set(queue.request_ids)) == 1


async def test_submit_that_is_refused_when_repeated_still_waits_for_its_receipt(client: Client, name: str) -> None:
    appended: list[str] = []

    @activity.defn
    async def enqueue_write(submission: Submission) -> str:
        appended.append(submission.request.request_id)
        if len(appended) > 1:
            raise ApplicationError("Redis is away", non_retryable=True)
        return "0/1-0"

    async with caller(client, name, enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: len(appended) == 1)
        await pass_half_of_the_timeout(client, handle)
        await eventually(lambda: len(appended) == 2)
        await confirm(handle, [written(appended[0])])
        assert await receipts_of(handle) == [written(appended[0])]


async def pass_half_of_the_timeout(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    half = WriteOptions().confirm_timeout / 2
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        await TimeSkipper(client).fast_forward(handle, half + timedelta(seconds=1))


async def test_entry_that_redis_lost_is_submitted_again_and_written(
    client: Client, name: str, redis: Redis, redis_server: AnyRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take, "LONGEST_BLOCK", timedelta(milliseconds=200))
    await Partitions(redis, name).announce(1)
    queue = WriteQueue(redis, name, 0)
    enqueue = EnqueueActivities(redis, max_backlog=10, max_request_bytes=10_000)
    sink = MemorySink()
    async with caller(client, name, enqueue.enqueue_write), batcher(client, name, redis, redis_server, sink):
        handle = await start(client, name, Order(queues=(name,)))
        await eventually(lambda: has_entry(queue))
        await redis.delete(queue.stream_key)
        await pass_half_of_the_timeout(client, handle)
        await start_draining(client, name)
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN
    assert [row.request_id for row in sink.rows] == [receipt.request_id]


async def has_entry(queue: WriteQueue) -> bool:
    return (await queue.statistics()).backlog == 1


async def test_receipt_of_a_replay_replaces_a_rejection_in_the_same_signal(client: Client, name: str) -> None:
    queue = FakeQueue()
    order = Order(on_rejected=OnRejected.WAIT)
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, order)
        await eventually(lambda: bool(queue.submissions))
        request = queue.submissions[0].request
        rejected = WriteReceipt(
            request_id=request.request_id, outcome=Outcome.REJECTED, attempt=request.attempt, error="too old"
        )
        await confirm(handle, [rejected, written(request.request_id)])
        assert [receipt.outcome for receipt in await receipts_of(handle)] == [Outcome.WRITTEN]
