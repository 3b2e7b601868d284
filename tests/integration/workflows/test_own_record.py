"""What a caller is told is about its own record: whatever else is written or refused under its request id."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client

from tests.support.fakes import FakeQueue, MemorySink
from tests.support.order_callers import (
    CONFIRMING_MODES,
    Order,
    Orders,
    Stack,
    about,
    caller,
    failure_of,
    finished_tasks,
    receipts_of,
    reset,
    result_of,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.errors import WriteRejected
from write_batcher.models import (
    CONFIRMATION_SIGNAL,
    Batch,
    ConfirmBy,
    FlushReason,
    Outcome,
    Submission,
    WriteReceipt,
)
from write_batcher.workflows.batched_writes import BatchedWrites

both_modes = pytest.mark.parametrize("confirm_by", CONFIRMING_MODES)


@both_modes
async def test_record_of_a_terminated_run_is_not_taken_for_the_one_of_the_next(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    order = replace(stack.order, request_id="order-7", confirm_by=confirm_by)
    async with stack.caller():
        first = await stack.client.start_workflow(
            Orders.run, replace(order, items=("100",)), id=stack.name, task_queue=stack.name
        )
        await eventually(lambda: stack.holds(1))
        await first.terminate()
        second = await stack.client.start_workflow(
            Orders.run, replace(order, items=("200",)), id=stack.name, task_queue=stack.name
        )
        await eventually(lambda: stack.holds(2))
        await stack.drain()
        failure = await failure_of(second)
    assert (failure.type, "another record" in failure.message) == ("WriteRejected", True)
    assert [row.record for row in stack.sink.rows] == [{"item": "100"}]


@workflow.defn
class Quoted:
    """Writes what an activity answers, under the default request id."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = BatchedWrites(order.options(order.queues[0]))

    @workflow.run
    async def run(self, order: Order) -> list[WriteReceipt]:
        cents = await workflow.execute_activity("quote", schedule_to_close_timeout=timedelta(seconds=30))
        return [await self.writes.submit("orders", {"cents": cents})]


@both_modes
async def test_record_from_before_a_reset_is_not_taken_for_the_one_after_it(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    quotes = iter([100, 200])

    @activity.defn
    async def quote() -> int:
        return next(quotes)

    async with caller(stack.client, stack.name, quote, stack.enqueue.enqueue_write, workflows=[Quoted]):
        order = replace(stack.order, confirm_by=confirm_by)
        handle: Any = await stack.client.start_workflow(Quoted.run, order, id=stack.name, task_queue=stack.name)
        await eventually(lambda: stack.holds(1))
        again = await reset(stack.client, handle, (await finished_tasks(handle))[0])
        await eventually(lambda: stack.holds(2))
        await stack.drain()
        failure = await failure_of(again)
    assert failure.type == "WriteRejected"
    assert [row.record for row in stack.sink.rows] == [{"cents": 100}]


async def test_receipts_of_other_records_and_attempts_are_not_taken(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name)
        await eventually(lambda: bool(queue.submissions))
        own = about(queue.requests[0])
        other_record = replace(own, record_hash="0" * 64)
        refused = replace(own, outcome=Outcome.REJECTED, error="no such column")
        await handle.signal(
            CONFIRMATION_SIGNAL,
            [
                other_record,
                replace(other_record, outcome=Outcome.DUPLICATE),
                replace(own, record_hash=None),
                replace(refused, attempt="another"),
                replace(refused, attempt=None),
                replace(refused, record_hash="0" * 64),
                replace(own, outcome=Outcome.QUEUED),
            ],
        )
        await handle.signal(CONFIRMATION_SIGNAL, [replace(own, attempt="another", outcome=Outcome.DUPLICATE)])
        [receipt] = await receipts_of(handle)
    assert (receipt.outcome, receipt.attempt) == (Outcome.DUPLICATE, "another")


@workflow.defn
class Changing:
    """Goes on changing its record while it is written; returns the outcome."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = BatchedWrites(order.options(order.queues[0]))

    @workflow.run
    async def run(self, order: Order) -> str:
        record: dict[str, Any] = {"item": "tea", "lines": [{"cents": 450}]}
        submitting = asyncio.create_task(self.writes.submit("orders", record))
        await asyncio.sleep(0)
        record["item"] = "milk"
        record["lines"][0]["cents"] = 0
        return (await submitting).outcome.value


async def test_record_that_is_changed_after_the_submit_is_written_and_settled_as_it_was(
    client: Client, name: str
) -> None:
    queue, ledger = FakeQueue(), MemorySink()
    order = Order(batcher_task_queue=name, confirm_timeout_s=2.0)
    async with caller(client, name, queue.enqueue_write, settling(ledger), workflows=[Changing]):
        handle = await client.start_workflow(Changing.run, order, id=name, task_queue=name)
        await eventually(lambda: len(queue.requests) == 2)
        assert {str(request.record) for request in queue.requests} == {"{'item': 'tea', 'lines': [{'cents': 450}]}"}
        await ledger.write(
            Batch(
                batch_id="b1",
                queue="default/default",
                flush_reason=FlushReason.WAIT,
                requests=(queue.requests[0],),
            )
        )
        assert await result_of(handle) == Outcome.WRITTEN


@workflow.defn
class Correcting:
    """Corrects its record and submits it again, under the same id, when it is rejected."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = BatchedWrites(order.options(order.queues[0]))

    @workflow.run
    async def run(self, order: Order) -> WriteReceipt:
        try:
            return await self.writes.submit("orders", {"cents": -1}, request_id="order-7")
        except WriteRejected:
            return await self.writes.submit("orders", {"cents": 1}, request_id="order-7")


@both_modes
async def test_rejected_record_is_corrected_and_written_under_its_id_in_the_same_run(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    stack.sink._refuse = lambda request: "cents must be positive" if request.record["cents"] < 0 else None
    await stack.drain()
    async with caller(stack.client, stack.name, stack.enqueue.enqueue_write, workflows=[Correcting]):
        order = replace(stack.order, confirm_by=confirm_by)
        handle = await stack.client.start_workflow(Correcting.run, order, id=stack.name, task_queue=stack.name)
        receipt = await result_of(handle)
    assert receipt.outcome is Outcome.WRITTEN
    assert [row.record for row in stack.sink.rows] == [{"cents": 1}]


async def test_receipt_of_an_open_activity_that_is_about_another_record_is_settled(client: Client, name: str) -> None:
    ledger = MemorySink()

    @activity.defn
    async def enqueue_write(submission: Submission) -> WriteReceipt:
        return replace(about(submission.requests[0]), record_hash="0" * 64)

    order = Order(confirm_by=ConfirmBy.COMPLETION, batcher_task_queue=name)
    async with caller(client, name, enqueue_write, settling(ledger)):
        failure = await failure_of(await start(client, name, order))
    assert failure.type == "WriteNotSubmitted"
    assert [receipt.outcome for receipt in ledger.settled] == [Outcome.WITHDRAWN]
