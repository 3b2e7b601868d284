"""A caller that gets no receipt, or is cancelled, settles its write before it ends: no outcome is left open."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import ActivityEnvironment

from tests.support.fakes import FakeQueue, MemorySink
from tests.support.order_callers import (
    CONFIRMING_MODES,
    CancellingCaller,
    Order,
    TimedCaller,
    about,
    caller,
    cause_of,
    failure_of,
    receipts_of,
    result_of,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.activities.settle import SETTLED_AT_ONCE
from write_batcher.errors import SinkUnavailable, WriteFailed
from write_batcher.models import (
    Appended,
    Batch,
    ConfirmBy,
    FlushReason,
    Outcome,
    Settled,
    Submission,
    WriteReceipt,
    WriteRequest,
)
from write_batcher.workflows.batched_writes import BatchedWrites

both_modes = pytest.mark.parametrize("confirm_by", CONFIRMING_MODES)


class Ledger(MemorySink):
    """`outage` makes it unavailable; settling waits while `gate` is not set. The rows of `locked` items are locked, and
    the settling of `hanging` ones never ends.
    """

    def __init__(self, refuse: Callable[[WriteRequest], str | None] = lambda _: None) -> None:
        super().__init__(refuse)
        self.outage: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        self.locked: set[str] = set()
        self.hanging: set[str] = set()

    @property
    def outcomes(self) -> list[Outcome]:
        return [receipt.outcome for receipt in self.settled]

    async def settle(self, request: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        self.asked += 1
        await self.gate.wait()
        if self.outage:
            raise SinkUnavailable(self.outage)
        if request.record["item"] in self.locked:
            raise SinkUnavailable("the row is locked")
        if request.record["item"] in self.hanging:
            await asyncio.Event().wait()
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


@workflow.defn
class Crowd:
    """Submits all items at once, and goes on when some fail; returns how each has ended."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = BatchedWrites(order.options(order.queues[0]))
        self.ends: dict[str, str] = {}

    @workflow.run
    async def run(self, order: Order) -> dict[str, str]:
        await asyncio.gather(*map(self._submit, order.items))
        return self.ends

    @workflow.query
    def ended(self) -> list[str]:
        return list(self.ends)

    async def _submit(self, item: str) -> None:
        try:
            receipt = await self.writes.submit("orders", {"item": item})
            self.ends[item] = receipt.outcome.value
        except WriteFailed as failure:
            self.ends[item] = f"{failure.type}: {failure.message}"


HUNDRED = tuple(str(number) for number in range(100))


async def start_crowd(client: Client, name: str, order: Order) -> WorkflowHandle[Crowd, dict[str, str]]:
    return await client.start_workflow(Crowd.run, replace(order, items=HUNDRED), id=name, task_queue=name)


async def has_ended_but_for(handle: WorkflowHandle[Crowd, dict[str, str]], *items: str) -> bool:
    return set(await handle.query(Crowd.ended)) == set(HUNDRED) - set(items)


async def test_locked_request_alone_has_an_unknown_outcome(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger
) -> None:
    ledger.locked = {"50"}
    async with caller(client, name, queue.enqueue_write, settling(ledger), workflows=[Crowd]):
        handle = await start_crowd(client, name, replace(order, settle_timeout_s=6.0))
        await eventually(lambda: has_ended_but_for(handle, "50"))
        ends = await result_of(handle)
    assert {end.partition(":")[0] for item, end in ends.items() if item != "50"} == {"WriteNotConfirmed"}
    assert ends["50"].startswith("WriteOutcomeUnknown: ")
    assert "the database could not be asked within 6s whether it was written (the row is locked)" in ends["50"]
    assert len(ledger.settled) == 99


@pytest.mark.parametrize("locked", [{"50"}, set(HUNDRED[:25])], ids=len)
async def test_locked_requests_are_settled_when_their_locks_go(
    client: Client, name: str, order: Order, queue: FakeQueue, ledger: Ledger, locked: set[str]
) -> None:
    ledger.locked = set(locked)
    async with caller(client, name, queue.enqueue_write, settling(ledger), workflows=[Crowd]):
        handle = await start_crowd(client, name, order)
        await eventually(lambda: has_ended_but_for(handle, *locked))
        ledger.locked.clear()
        ends = await result_of(handle)
    assert {end.partition(":")[0] for end in ends.values()} == {"WriteNotConfirmed"}
    assert ledger.outcomes == [Outcome.WITHDRAWN] * 100


async def test_request_that_there_was_no_time_to_ask_about_is_offered_again_at_once(
    client: Client, name: str, order: Order, queue: FakeQueue
) -> None:
    asked_at: list[float] = []

    @activity.defn
    async def settle_write(submission: Submission) -> list[Settled]:
        asked_at.append(asyncio.get_running_loop().time())
        first, *others = submission.requests
        return [Settled(receipt=about(first)), *(Settled(reason="no time", asked=False) for _ in others)]

    async with caller(client, name, queue.enqueue_write, settle_write):
        receipts = await receipts_of(await start(client, name, replace(order, items=("a", "b", "c"))))
    assert [receipt.outcome for receipt in receipts] == [Outcome.WRITTEN] * 3
    assert len(asked_at) == 3
    assert asked_at[-1] - asked_at[0] < 1.5  # a pause would have two seconds


@pytest.mark.parametrize(
    "answer",
    [
        about,
        lambda _request: Settled(),
        lambda request: Settled(receipt=replace(about(request), request_id="another")),
        lambda request: Settled(receipt=replace(about(request), record_hash="0" * 64), reason="later"),
        lambda _request: {"reason": 7},
    ],
    ids=["bare receipt", "nothing", "about another request", "about another record", "malformed"],
)
async def test_answer_without_a_receipt_about_the_record_is_none(
    client: Client, name: str, order: Order, queue: FakeQueue, answer: Callable[[WriteRequest], object]
) -> None:
    @activity.defn
    async def settle_write(submission: Submission) -> list[object]:
        return [answer(request) for request in submission.requests]

    async with caller(client, name, queue.enqueue_write, settle_write):
        failure = await failure_of(await start(client, name, order))
    assert failure.type == "WriteOutcomeUnknown"
    assert "(The answer is not about this record)" in failure.message


def submission_of(*items: str) -> Submission:
    return Submission(
        queue="default",
        requests=[WriteRequest(request_id=f"order-{item}", table="orders", record={"item": item}) for item in items],
    )


async def settle(ledger: Ledger, *items: str, attempt: ActivityEnvironment | None = None) -> list[Settled]:
    """What one attempt of the activity answers; it has a second."""
    attempt = attempt or ActivityEnvironment()
    async with asyncio.timeout(1):
        answers: list[Settled] = await attempt.run(settling(ledger), submission_of(*items))
    return answers


def attempt_with(*, attempt_s: float, activity_s: float) -> ActivityEnvironment:
    """An attempt that begins a minute after its activity was scheduled, with the limits of both."""
    attempt = ActivityEnvironment()
    attempt.info = replace(
        attempt.info,
        started_time=attempt.info.scheduled_time + timedelta(minutes=1),
        start_to_close_timeout=timedelta(seconds=attempt_s),
        schedule_to_close_timeout=timedelta(seconds=activity_s),
    )
    return attempt


@pytest.mark.parametrize(
    "attempt",
    [attempt_with(attempt_s=0.6, activity_s=90), attempt_with(attempt_s=15, activity_s=60.6)],
    ids=["attempt ends", "activity ends"],
)
async def test_request_that_hangs_does_not_keep_the_others_from_their_answers(
    ledger: Ledger, attempt: ActivityEnvironment
) -> None:
    ledger.hanging = {"50"}
    answers = await settle(ledger, *HUNDRED, attempt=attempt)
    receipts = [answer.receipt for answer in answers]
    assert [number for number, receipt in enumerate(receipts) if receipt is None] == [50]
    assert [receipt.request_id for receipt in receipts if receipt] == [f"order-{n}" for n in HUNDRED if n != "50"]
    assert "not settled within 0.4 s" in (answers[50].reason or "")


async def test_requests_that_hang_do_not_keep_the_same_others_waiting_every_time(ledger: Ledger) -> None:
    ledger.hanging = set(HUNDRED[:20])
    answers = await settle(ledger, *HUNDRED)
    assert any(answer.receipt for answer in answers)
    assert sum(answer.asked and answer.receipt is None for answer in answers) == SETTLED_AT_ONCE


async def test_attempt_that_settles_nothing_fails_and_is_retried(ledger: Ledger) -> None:
    ledger.locked = {"1", "2"}
    with pytest.raises(SinkUnavailable, match="the row is locked"):
        await settle(ledger, "1", "2")
