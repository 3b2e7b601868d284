"""Confirmation by completion: the enqueue activity stays open until the drain completes it with the receipt."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from tests.support.fakes import FakeQueue, MemorySink
from tests.support.order_callers import (
    Order,
    Stack,
    caller,
    failure_of,
    kinds_of,
    receipts_of,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.models import Appended, ConfirmBy, Outcome, Submission
from write_batcher.workflows.write_options import OnRejected


@pytest.fixture
def stack(stack: Stack) -> Stack:
    return replace(stack, order=replace(stack.order, confirm_by=ConfirmBy.COMPLETION))


async def test_completed_write_adds_the_events_of_one_activity(stack: Stack) -> None:
    await stack.drain()
    async with stack.caller():
        handle = await stack.start()
        [receipt] = await receipts_of(handle)
    assert (receipt.outcome, receipt.batch_size) == (Outcome.WRITTEN, 1)
    assert await kinds_of(handle) == [
        "workflow execution started",
        "activity task scheduled",
        "activity task started",
        "activity task completed",
        "workflow execution completed",
    ]


async def test_writes_at_once_share_an_activity_and_each_get_their_own_receipt(stack: Stack) -> None:
    items = tuple(f"item {number}" for number in range(8))
    await stack.drain()
    async with stack.caller():
        handle = await stack.start(items=items)
        receipts = await receipts_of(handle)
    items_of = {row.request_id: row.record["item"] for row in stack.sink.rows}
    assert tuple(items_of[receipt.request_id] for receipt in receipts) == items
    kinds = Counter(await kinds_of(handle))
    assert (kinds["activity task scheduled"], kinds["workflow execution signaled"]) == (1, 1)


async def test_completed_receipt_tells_plausible_milliseconds(stack: Stack) -> None:
    async with stack.caller():
        handle = await stack.start()
        await eventually(lambda: stack.holds(1))
        await asyncio.sleep(0.3)  # not to synchronise: the least time that it is queued
        await stack.drain()
        [receipt] = await receipts_of(handle)
    assert 300 <= (receipt.queued_ms or 0) < 20_000
    assert 0 <= (receipt.write_ms if receipt.write_ms is not None else -1) < 5_000
    assert 0 <= (receipt.confirm_ms if receipt.confirm_ms is not None else -1) < 5_000


async def test_completion_needs_no_worker_of_the_caller(stack: Stack) -> None:
    async with stack.caller():
        handle = await stack.start()
        await eventually(lambda: stack.holds(1))
    await stack.drain()
    await eventually(lambda: stack.holds(0))
    assert "activity task completed" in await kinds_of(handle)
    async with stack.caller():
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN


async def test_worker_that_dies_after_the_append_does_not_prevent_completion(stack: Stack) -> None:
    died = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        try:
            return await stack.enqueue.enqueue_write(submission)
        except BaseException:  # raise_complete_async, which a dead process never reports
            await died.wait()
            raise

    async with caller(stack.client, stack.name, enqueue_write):
        handle = await stack.start()
        await eventually(lambda: stack.holds(1))
        await stack.drain()
        [receipt] = await receipts_of(handle)
        died.set()
    assert receipt.outcome is Outcome.WRITTEN


@pytest.mark.parametrize("appends", [False, True], ids=["before the append", "after the append"])
async def test_attempt_that_fails_is_repeated_under_the_same_activity_id(stack: Stack, appends: bool) -> None:
    activity_ids: list[str] = []

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        activity_ids.append(activity.info().activity_id)
        if len(activity_ids) > 1:
            return await stack.enqueue.enqueue_write(submission)
        if appends:
            with pytest.raises(BaseException):  # noqa: B017, PT011 - raise_complete_async
                await stack.enqueue.enqueue_write(submission)
        raise ApplicationError("connection lost")

    async with caller(stack.client, stack.name, enqueue_write):
        handle = await stack.start()
        await eventually(lambda: len(activity_ids) == 2)
        await eventually(lambda: stack.holds(1))
        await stack.drain()
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN
    assert len(set(activity_ids)) == 1
    assert len(stack.sink.rows) == 1


async def test_receipt_between_two_attempts_is_not_lost(stack: Stack) -> None:
    # The first attempt appended, its result was lost, and the drain is done before the second begins.
    failed = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        if activity.info().attempt == 1:
            with pytest.raises(BaseException):  # noqa: B017, PT011 - raise_complete_async
                await stack.enqueue.enqueue_write(submission)
            failed.set()
            raise ApplicationError("connection lost", next_retry_delay=timedelta(seconds=2))
        return await stack.enqueue.enqueue_write(submission)

    async with caller(stack.client, stack.name, enqueue_write):
        handle = await stack.start()
        async with asyncio.timeout(10):
            await failed.wait()
        await stack.drain()
        [receipt] = await receipts_of(handle)
    assert receipt.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE)
    assert len(stack.sink.rows) == 1


async def test_activity_without_a_receipt_is_repeated_once_by_the_workflow(client: Client, name: str) -> None:
    attempts: list[tuple[str, int]] = []
    queue = FakeQueue()

    @activity.defn
    async def enqueue_write(submission: Submission) -> object:
        attempts.append((activity.info().activity_id, activity.info().attempt))
        return await queue.enqueue_write(submission)

    order = Order(batcher_task_queue=name, confirm_by=ConfirmBy.COMPLETION, confirm_timeout_s=2.0)
    async with caller(client, name, enqueue_write, settling(MemorySink())):
        handle = await start(client, name, order)
        failure = await failure_of(handle)
    assert failure.type == "WriteNotConfirmed"
    assert [attempt for _, attempt in attempts] == [1, 1]
    assert len({activity_id for activity_id, _ in attempts}) == 2
    assert Counter(await kinds_of(handle))["activity task timed out"] == 2
    assert len(set(queue.request_ids)) == 1


async def test_resubmitted_write_is_completed_by_its_second_activity(stack: Stack) -> None:
    async with stack.caller():
        handle = await stack.start(confirm_timeout_s=8.0)
        await eventually(lambda: stack.holds(2))
        await stack.drain()
        [receipt] = await receipts_of(handle)
        await eventually(lambda: stack.holds(0))
    assert receipt.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE)
    assert len(stack.sink.rows) == 1


async def test_entry_that_redis_lost_is_submitted_again_and_completed(stack: Stack) -> None:
    async with stack.caller():
        handle = await stack.start(confirm_timeout_s=4.0)
        await eventually(lambda: stack.holds(1))
        await stack.redis.delete(stack.queue.stream_key)
        await eventually(lambda: stack.holds(1))
        await stack.drain()
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN


async def test_rejected_write_is_completed_with_its_reason(stack: Stack) -> None:
    stack.sink.refuse_all("cents must be positive")
    await stack.drain()
    async with stack.caller():
        failure = await failure_of(await stack.start())
    assert (failure.type, failure.non_retryable) == ("WriteRejected", True)
    assert "cents must be positive" in failure.message


@pytest.mark.parametrize("gone", ["terminated", "cancelled"])
async def test_entry_of_a_caller_that_has_ended_is_acknowledged(stack: Stack, gone: str) -> None:
    async with stack.caller():
        handle = await stack.start()
        await eventually(lambda: stack.holds(1))
        if gone == "terminated":
            await handle.terminate()
        else:
            await handle.cancel()
            await eventually(lambda: bool(stack.sink.settled))
        await stack.drain()
        await eventually(lambda: stack.holds(0))
    assert len(stack.sink.rows) == (1 if gone == "terminated" else 0)


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_rejected_write_is_written_after_its_replay(stack: Stack, confirm_by: ConfirmBy) -> None:
    stack.sink.refuse_all("no such column")
    await stack.drain()
    async with stack.caller():
        handle = await stack.start(confirm_by=confirm_by, on_rejected=OnRejected.WAIT)
        await eventually(stack.has_dead_letter)
        [letter] = await stack.letters.page()
        stack.sink.refuse_all(None)
        await stack.letters.replay(letter)
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN
    assert [row.request_id for row in stack.sink.rows] == [receipt.request_id]


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_rejected_write_waits_on_when_its_replay_is_rejected_too(stack: Stack, confirm_by: ConfirmBy) -> None:
    stack.sink.refuse_all("no such column")
    await stack.drain()
    async with stack.caller():
        handle = await stack.start(confirm_by=confirm_by, on_rejected=OnRejected.WAIT)
        for reason in ("no such column", "still no such column"):
            await eventually(stack.has_dead_letter)
            [letter] = await stack.letters.page()
            assert letter.reason == reason
            stack.sink.refuse_all("still no such column" if reason == "no such column" else None)
            await stack.letters.replay(letter)
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN


async def test_rejected_write_stays_rejected_when_its_caller_is_cancelled(stack: Stack) -> None:
    stack.sink.refuse_all("no such column")
    await stack.drain()
    async with stack.caller():
        handle = await stack.start(on_rejected=OnRejected.WAIT)
        await eventually(stack.has_dead_letter)
        await handle.cancel()
        await eventually(lambda: bool(stack.sink.settled))
    assert stack.sink.settled[0].outcome is Outcome.REJECTED


async def test_unconfirmed_write_is_queued_at_once_and_written_later(stack: Stack) -> None:
    async with stack.caller():
        handle = await stack.start(confirm_by=ConfirmBy.NONE)
        [receipt] = await receipts_of(handle)
    assert (receipt.outcome, receipt.attempt, receipt.batch_id) == (Outcome.QUEUED, None, None)
    await stack.drain()
    await eventually(lambda: stack.holds(0))
    assert [row.request_id for row in stack.sink.rows] == [receipt.request_id]


async def test_another_record_under_the_id_of_a_queued_write_is_queued_too(stack: Stack) -> None:
    # Only the ledger may decide that it is a conflict.
    async with stack.caller():
        order = {"items": ("tea", "milk"), "one_by_one": True, "request_id": "order-7"}
        await receipts_of(await stack.start(confirm_by=ConfirmBy.NONE, **order))
    assert await stack.holds(2)


async def test_unconfirmed_write_is_withdrawn_when_its_append_fails(stack: Stack) -> None:
    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        raise ConnectionError("Redis is away")

    async with caller(stack.client, stack.name, enqueue_write):
        failure = await failure_of(await stack.start(confirm_by=ConfirmBy.NONE, submit_timeout_s=0.5))
    assert failure.type == "WriteNotSubmitted"
    assert [receipt.outcome for receipt in stack.sink.settled] == [Outcome.WITHDRAWN]


async def test_unconfirmed_write_does_not_wait_for_a_replay(stack: Stack) -> None:
    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        await stack.enqueue.enqueue_write(submission)
        await eventually(stack.has_dead_letter)
        raise ConnectionError("the answer is lost")

    stack.sink.refuse_all("no such column")
    await stack.drain()
    async with caller(stack.client, stack.name, enqueue_write):
        order = {"confirm_by": ConfirmBy.NONE, "on_rejected": OnRejected.WAIT, "submit_timeout_s": 3.0}
        failure = await failure_of(await stack.start(**order))
    assert failure.type == "WriteRejected"


async def test_unconfirmed_write_is_refused_when_it_is_invalid(stack: Stack) -> None:
    async with stack.caller():
        failure = await failure_of(await stack.start(confirm_by=ConfirmBy.NONE, items=("x" * 300_000,)))
    assert failure.type == "WriteNotSubmitted"
    assert stack.sink.settled == []


async def test_callers_that_are_replayed_at_every_step_are_completed(stack: Stack) -> None:
    async with stack.caller(cached=0):
        handle = await stack.start(items=("a", "b"))
        await eventually(lambda: stack.holds(2))
        await stack.drain()
        assert len(await receipts_of(handle)) == 2
