"""A caller that gets no receipt, or is cancelled, settles its write before it ends: no outcome is left open."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from tests.support.fakes import FakeQueue, MemorySink
from tests.support.order_callers import (
    CONFIRMING_MODES,
    CancellingCaller,
    Order,
    TimedCaller,
    caller,
    cause_of,
    failure_of,
    receipts_of,
    result_of,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.errors import SinkUnavailable
from write_batcher.models import (
    Appended,
    Batch,
    ConfirmBy,
    FlushReason,
    Outcome,
    Submission,
    WriteReceipt,
    WriteRequest,
)

both_modes = pytest.mark.parametrize("confirm_by", CONFIRMING_MODES)


class Ledger(MemorySink):
    """`outage` makes it unavailable; settling waits while `gate` is not set."""

    def __init__(self, refuse: Callable[[WriteRequest], str | None] = lambda _: None) -> None:
        super().__init__(refuse)
        self.outage: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    @property
    def outcomes(self) -> list[Outcome]:
        return [receipt.outcome for receipt in self.settled]

    async def settle(self, request: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        self.asked += 1
        await self.gate.wait()
        if self.outage:
            raise SinkUnavailable(self.outage)
        return await super().settle(request, queue=queue, refused=refused)

    async def write_one(self, request: WriteRequest) -> None:
        """Write like a drain whose receipt is lost."""
        await self.write(
            Batch(batch_id="b1", queue="default/default", flush_reason=FlushReason.WAIT, requests=(request,))
        )


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def queue() -> FakeQueue:
    """Takes every request and never confirms."""
    return FakeQueue()


@pytest.fixture
def order(name: str) -> Order:
    """An order that gives up waiting for its receipt after a second."""
    return Order(batcher_task_queue=name, confirm_timeout_s=1.0, settle_timeout_s=10.0)


@pytest.fixture
def patient(order: Order) -> Order:
    return replace(order, confirm_timeout_s=3600.0)


@both_modes
async def test_write_without_a_receipt_is_withdrawn_and_then_not_confirmed(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        failure = await failure_of(await start(client, name, replace(order, confirm_by=confirm_by)))
    assert (failure.type, failure.non_retryable) == ("WriteNotConfirmed", True)
    assert (
        f"Request {queue.request_ids[0]!r} is withdrawn: it was not written within 1s (confirm_timeout)"
        in failure.message
    )
    assert "Look at the batcher workers" in failure.message
    assert "raise confirm_timeout, or lower the batcher's max_wait" in failure.message
    assert ledger.outcomes == [Outcome.WITHDRAWN]


@both_modes
async def test_withdrawn_write_is_not_made_by_its_late_entries(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        await failure_of(await start(client, name, replace(order, confirm_by=confirm_by)))
    for request in queue.requests:
        await ledger.write_one(request)
    assert len(queue.requests) == 2
    assert ledger.rows == []


@both_modes
async def test_write_that_was_made_without_a_receipt_is_found_by_settling(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start(client, name, replace(order, confirm_by=confirm_by))
        await eventually(lambda: bool(queue.submissions))
        await ledger.write_one(queue.requests[0])
        [receipt] = await receipts_of(handle)
    assert (receipt.request_id, receipt.outcome, receipt.batch_id) == (queue.request_ids[0], Outcome.WRITTEN, "b1")


@both_modes
async def test_rejection_without_a_receipt_is_found_by_settling(
    client: Client, name: str, order: Order, queue: FakeQueue, confirm_by: ConfirmBy
) -> None:
    ledger = Ledger(lambda _: "cents must be positive")
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start(client, name, replace(order, confirm_by=confirm_by))
        await eventually(lambda: bool(queue.submissions))
        await ledger.write_one(queue.requests[0])
        failure = await failure_of(handle)
    assert (failure.type, "cents must be positive" in failure.message) == ("WriteRejected", True)


@both_modes
async def test_settling_is_tried_until_the_database_answers(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    ledger.outage = "database is away"
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start(client, name, replace(order, confirm_by=confirm_by))
        await eventually(lambda: ledger.asked >= 2)
        ledger.outage = None
        assert (await failure_of(handle)).type == "WriteNotConfirmed"


@both_modes
@pytest.mark.parametrize("why", ["no batcher worker", "no database"])
async def test_outcome_that_cannot_be_settled_is_unknown(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy, why: str
) -> None:
    order = replace(order, confirm_by=confirm_by, settle_timeout_s=1.0)
    if why == "no batcher worker":
        order = replace(order, batcher_task_queue=f"{name}-nobody")
    ledger.outage = "database is away"
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        failure = await failure_of(await start(client, name, order))
    assert (failure.type, failure.non_retryable) == ("WriteOutcomeUnknown", True)
    assert f"Request {queue.request_ids[0]!r} is not confirmed" in failure.message
    reason = "No batcher worker answered" if why == "no batcher worker" else "database is away"
    assert f"within 1s whether it was written ({reason}): look at the database and" in failure.message
    assert (
        f"{order.batcher_task_queue!r}, then look up the request id in the table write_batcher_ledger."
        in failure.message
    )


class LossyQueue:
    """Appends every request, and loses every result."""

    def __init__(self) -> None:
        self.requests: list[WriteRequest] = []

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> list[Appended]:
        self.requests.extend(submission.requests)
        raise ApplicationError("connection lost", type="QueueUnavailable")


@both_modes
async def test_append_whose_result_is_lost_is_settled_before_it_fails(
    client: Client, name: str, order: Order, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    queue = LossyQueue()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        failure = await failure_of(
            await start(client, name, replace(order, confirm_by=confirm_by, submit_timeout_s=1.0))
        )
    assert failure.type == "WriteNotSubmitted"
    assert ledger.outcomes == [Outcome.WITHDRAWN]


@both_modes
async def test_append_whose_result_is_lost_succeeds_when_it_was_written(
    client: Client, name: str, order: Order, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    queue = LossyQueue()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start(client, name, replace(order, confirm_by=confirm_by, submit_timeout_s=1.0))
        await eventually(lambda: bool(queue.requests))
        await ledger.write_one(queue.requests[0])
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN


@both_modes
@pytest.mark.parametrize("cached", [1000, 0], ids=["cached", "replayed at every step"])
async def test_cancelled_caller_withdraws_its_write_and_ends_cancelled(
    client: Client, name: str, patient: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy, cached: int
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger), cached=cached):
        handle = await start(client, name, replace(patient, confirm_by=confirm_by))
        await eventually(lambda: bool(queue.submissions))
        await handle.cancel()
        assert isinstance(await cause_of(handle), CancelledError)
    assert ledger.outcomes == [Outcome.WITHDRAWN]
    await ledger.write_one(queue.requests[0])
    assert ledger.rows == []


@both_modes
async def test_cancelled_caller_of_several_writes_settles_them_all(
    client: Client, name: str, patient: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start(client, name, replace(patient, confirm_by=confirm_by, items=("a", "b", "c")))
        await eventually(lambda: len(queue.requests) == 3)
        await handle.cancel()
        assert isinstance(await cause_of(handle), CancelledError)
    assert {receipt.request_id for receipt in ledger.settled} == set(queue.request_ids)


async def start_cancelling(client: Client, name: str, order: Order) -> WorkflowHandle[CancellingCaller, str]:
    return await client.start_workflow(CancellingCaller.run, order, id=name, task_queue=name)


def cancelled(request_id: str, outcome: str) -> str:
    """The message of a cancelled submit."""
    return f"Request {request_id!r} was cancelled, its outcome is {outcome!r}."


@both_modes
async def test_cancellation_says_that_the_write_was_withdrawn(
    client: Client, name: str, patient: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start_cancelling(client, name, replace(patient, confirm_by=confirm_by))
        await eventually(lambda: bool(queue.submissions))
        await handle.signal(CancellingCaller.give_up)
        assert await result_of(handle) == cancelled(queue.request_ids[0], "withdrawn")


@both_modes
async def test_cancellation_says_that_the_write_was_made_meanwhile(
    client: Client, name: str, patient: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start_cancelling(client, name, replace(patient, confirm_by=confirm_by))
        await eventually(lambda: bool(queue.submissions))
        await ledger.write_one(queue.requests[0])
        await handle.signal(CancellingCaller.give_up)
        assert await result_of(handle) == cancelled(queue.request_ids[0], "written")


@both_modes
async def test_cancelling_twice_does_not_interrupt_the_settling(
    client: Client, name: str, patient: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    ledger.gate.clear()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start_cancelling(client, name, replace(patient, confirm_by=confirm_by))
        await eventually(lambda: bool(queue.submissions))
        await handle.signal(CancellingCaller.give_up)
        await eventually(lambda: ledger.asked == 1)
        await handle.signal(CancellingCaller.give_up)
        await eventually(lambda: has_seen_signals(handle, 2))
        ledger.gate.set()
        assert await result_of(handle) == cancelled(queue.request_ids[0], "withdrawn")


async def has_seen_signals(handle: WorkflowHandle[Any, Any], number: int) -> bool:
    """Whether the workflow has received this number of signals, and has run a workflow task after the last one."""
    kinds = [event.WhichOneof("attributes") for event in (await handle.fetch_history()).events]
    signals = [at for at, kind in enumerate(kinds) if kind == "workflow_execution_signaled_event_attributes"]
    if len(signals) < number:
        return False
    return "workflow_task_completed_event_attributes" in kinds[signals[number - 1] :]


@both_modes
async def test_caller_cancelled_while_it_settles_ends_with_the_outcome(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    ledger.gate.clear()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start_cancelling(client, name, replace(order, confirm_by=confirm_by))
        await eventually(lambda: ledger.asked == 1)
        await handle.signal(CancellingCaller.give_up)
        await eventually(lambda: has_seen_signals(handle, 1))
        ledger.gate.set()
        assert await result_of(handle) == cancelled(queue.request_ids[0], "withdrawn")
    assert set(ledger.outcomes) == {Outcome.WITHDRAWN}


@both_modes
async def test_cancelled_caller_that_cannot_settle_is_cancelled_all_the_same(
    client: Client, name: str, patient: Order, queue: FakeQueue, confirm_by: ConfirmBy
) -> None:
    order = replace(patient, confirm_by=confirm_by, settle_timeout_s=1.0, batcher_task_queue=f"{name}-nobody")
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, order)
        cancelling = await client.start_workflow(CancellingCaller.run, order, id=name, task_queue=name)
        await eventually(lambda: len(queue.requests) == 2)
        await handle.cancel()
        await cancelling.signal(CancellingCaller.give_up)
        assert isinstance(await cause_of(handle), CancelledError)
        message = await result_of(cancelling)
    assert "was cancelled, and its outcome is unknown" in message
    assert "the database could not be asked within 1s" in message


@both_modes
async def test_caller_cancelled_during_the_append_withdraws_the_late_entry(
    client: Client, name: str, patient: Order, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    appending: list[WriteRequest] = []
    redis_answers = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        appending.extend(submission.requests)
        await redis_answers.wait()
        return [Appended(entry="0/1-0")]

    async with caller(client, name, enqueue_write, settling(ledger)):
        handle = await start(client, name, replace(patient, confirm_by=confirm_by))
        await eventually(lambda: bool(appending))
        await handle.cancel()
        assert isinstance(await cause_of(handle), CancelledError)
        redis_answers.set()
    await ledger.write_one(appending[0])
    assert ledger.rows == []


@both_modes
async def test_append_of_a_cancelled_write_is_not_retried(
    client: Client, name: str, patient: Order, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    queue = LossyQueue()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start_cancelling(client, name, replace(patient, confirm_by=confirm_by))
        await eventually(lambda: bool(queue.requests))
        ledger.gate.clear()
        await handle.signal(CancellingCaller.give_up)
        await eventually(lambda: ledger.asked == 1)
        assert "enqueue_write" not in await pending_activities(handle)
        ledger.gate.set()
        await result_of(handle)


async def pending_activities(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The activities that Temporal would still retry."""
    pending = (await handle.describe()).raw_description.pending_activities
    cancel_requested = 3
    return [one.activity_type.name for one in pending if one.state != cancel_requested]


@both_modes
async def test_timeout_around_a_submit_settles_first(
    client: Client, name: str, patient: Order, queue: FakeQueue, ledger: Ledger, confirm_by: ConfirmBy
) -> None:
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await client.start_workflow(
            TimedCaller.run, replace(patient, confirm_by=confirm_by), id=name, task_queue=name
        )
        assert str(await result_of(handle)).startswith("too late")
    assert ledger.asked == 1
    assert ledger.outcomes == [Outcome.WITHDRAWN]
