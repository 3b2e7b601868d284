"""`OnRejected.WAIT`: a rejected write waits for the replay of its dead letter, and notices when the letter is lost."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client

from tests.support.fakes import FakeQueue, MemorySink
from tests.support.order_callers import (
    CONFIRMING_MODES,
    Order,
    Stack,
    about,
    caller,
    failure_of,
    finished_tasks,
    kinds_of,
    receipts_of,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.models import (
    CONFIRMATION_SIGNAL,
    Batch,
    ConfirmBy,
    FlushReason,
    Outcome,
    Settled,
    Submission,
    WriteReceipt,
    WriteRequest,
)
from write_batcher.workflows import call
from write_batcher.workflows.write_options import OnRejected

WAITING = Order(on_rejected=OnRejected.WAIT)


@pytest.fixture
def _looks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "FIRST_LOOK_S", 0.3)
    monkeypatch.setattr(call, "LONGEST_LOOK_S", 0.6)


def refusal(request: WriteRequest, error: str = "no such column") -> WriteReceipt:
    return replace(about(request), outcome=Outcome.REJECTED, error=error)


async def rejected_on(stack: Stack, confirm_by: ConfirmBy = ConfirmBy.SIGNAL) -> Any:
    """A caller that waits for the replay of its dead letter; what has rejected it is repaired."""
    stack.sink.refuse_all("no such column")
    await stack.drain()
    handle = await stack.start(confirm_by=confirm_by, on_rejected=OnRejected.WAIT)
    await eventually(stack.has_dead_letter)
    stack.sink.refuse_all(None)
    return handle


async def appends_of(handle: Any) -> int:
    return (await kinds_of(handle)).count("activity task completed")


@pytest.mark.usefixtures("_looks_soon")
@pytest.mark.parametrize("confirm_by", CONFIRMING_MODES)
async def test_write_whose_dead_letter_is_lost_is_submitted_again(stack: Stack, confirm_by: ConfirmBy) -> None:
    async with stack.caller():
        handle = await rejected_on(stack, confirm_by)
        await stack.redis.delete(stack.queue.dead_key)
        await eventually(stack.has_dead_letter)  # its rejection still binds it, until an operator replays
        [letter] = await stack.letters.page()
        await stack.letters.replay(letter)
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN
    assert len(stack.sink.rows) == 1


@pytest.mark.usefixtures("_looks_soon")
@pytest.mark.parametrize("confirm_by", CONFIRMING_MODES)
async def test_write_whose_dead_letter_is_there_is_not_appended_again(stack: Stack, confirm_by: ConfirmBy) -> None:
    async with stack.caller():
        handle = await rejected_on(stack, confirm_by)
        await eventually(partial(has_looked, handle, 3))
        assert (len(stack.sink.batches), await stack.has_dead_letter()) == (1, True)
        [letter] = await stack.letters.page()
        await stack.letters.replay(letter)
        [receipt] = await receipts_of(handle)
    assert receipt.outcome is Outcome.WRITTEN


async def has_looked(handle: Any, times: int) -> bool:
    return await appends_of(handle) >= 1 + times


@pytest.mark.usefixtures("_looks_soon")
async def test_write_too_old_to_be_submitted_again_goes_on_waiting(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "MAX_REQUEST_AGE", timedelta(milliseconds=100))
    async with stack.caller():
        handle = await rejected_on(stack)
        await eventually(partial(has_waited, handle, 3))
        [letter] = await stack.letters.page()
        await stack.letters.replay(letter)
        [receipt] = await receipts_of(handle)
    assert (receipt.outcome, await appends_of(handle)) == (Outcome.WRITTEN, 1)


async def has_waited(handle: Any, times: int) -> bool:
    return (await kinds_of(handle)).count("timer fired") >= times


async def test_caller_by_completion_that_waits_is_confirmed_by_signal(client: Client, name: str) -> None:
    queue = FakeQueue(refusal)
    order = replace(WAITING, confirm_by=ConfirmBy.COMPLETION)
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, order)
        await eventually(lambda: bool(queue.requests))
        await handle.signal(CONFIRMATION_SIGNAL, [about(queue.requests[0])])
        await receipts_of(handle)
    [request] = queue.requests
    assert request.reply is not None
    assert (request.reply.mode, request.reply.awaits_replay) == (ConfirmBy.SIGNAL, True)


async def test_receipt_of_a_replay_replaces_a_rejection_in_the_same_signal(client: Client, name: str) -> None:
    queue = FakeQueue()
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, WAITING)
        await eventually(lambda: bool(queue.requests))
        [request] = queue.requests
        await handle.signal(CONFIRMATION_SIGNAL, [refusal(request), about(request)])
        assert await receipts_of(handle) == [about(request)]


async def test_two_submits_that_wait_for_one_replay_both_learn_of_it(client: Client, name: str) -> None:
    queue = FakeQueue()
    order = replace(WAITING, items=("tea", "tea"), request_id="order-7")
    async with caller(client, name, queue.enqueue_write):
        handle = await start(client, name, order)
        await eventually(lambda: len(queue.requests) == 2)
        for error in ("no such column", "still no such column"):
            tasks = await finished_tasks(handle)
            await handle.signal(CONFIRMATION_SIGNAL, [refusal(request, error) for request in queue.requests])
            await eventually(partial(has_run_more_tasks, handle, tasks))
        told = about(queue.requests[0])
        await handle.signal(CONFIRMATION_SIGNAL, [told])
        assert await receipts_of(handle) == [told] * 2


async def has_run_more_tasks(handle: Any, tasks: list[int]) -> bool:
    return await finished_tasks(handle) > tasks


@pytest.mark.parametrize("is_written", [True, False], ids=["written", "withdrawn"])
async def test_dead_letter_that_was_discarded_makes_its_caller_ask_the_ledger(
    client: Client, name: str, is_written: bool
) -> None:
    # Its replay may have been under way when it was discarded.
    queue, ledger = FakeQueue(), MemorySink()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start(client, name, replace(WAITING, batcher_task_queue=name))
        await eventually(lambda: bool(queue.requests))
        [request] = queue.requests
        await handle.signal(CONFIRMATION_SIGNAL, [refusal(request)])
        if is_written:
            batch = Batch(
                batch_id="replay", queue="default/default", flush_reason=FlushReason.WAIT, requests=(request,)
            )
            await ledger.write(batch)
        await handle.signal(CONFIRMATION_SIGNAL, [replace(about(request), outcome=Outcome.WITHDRAWN)])
        if is_written:
            assert [receipt.batch_id for receipt in await receipts_of(handle)] == ["replay"]
        else:
            assert (await failure_of(handle)).type == "WriteRejected"
    assert len(ledger.settled) == 1


async def test_rejection_that_is_learned_by_settling_is_not_waited_for(client: Client, name: str) -> None:
    # Settling makes it final: no replay writes it any more.
    queue, ledger = FakeQueue(), MemorySink(lambda _: "no such column")
    order = replace(WAITING, batcher_task_queue=name, confirm_timeout_s=2.0)
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        handle = await start(client, name, order)
        await eventually(lambda: bool(queue.requests))
        batch = Batch(
            batch_id="b1", queue="default/default", flush_reason=FlushReason.WAIT, requests=(queue.requests[0],)
        )
        await ledger.write(batch)
        failure = await failure_of(handle)
    assert failure.type == "WriteRejected"
    assert Counter(await kinds_of(handle))["activity task scheduled"] == 3


async def test_rejection_that_arrives_during_the_settling_does_not_end_it(client: Client, name: str) -> None:
    # Until it is settled, a replay by default may still write it.
    queue, asked, may_answer = FakeQueue(), asyncio.Event(), asyncio.Event()

    @activity.defn
    async def settle_write(submission: Submission) -> list[Settled]:
        asked.set()
        await may_answer.wait()
        return [Settled(receipt=about(request)) for request in submission.requests]

    async with caller(client, name, queue.enqueue_write, settle_write):
        handle = await start(client, name, replace(WAITING, batcher_task_queue=name, confirm_timeout_s=1.0))
        await asked.wait()
        tasks = await finished_tasks(handle)
        await handle.signal(CONFIRMATION_SIGNAL, [refusal(queue.requests[0])])
        await eventually(partial(has_run_more_tasks, handle, tasks))
        may_answer.set()
        assert [receipt.outcome for receipt in await receipts_of(handle)] == [Outcome.WRITTEN]


async def test_write_that_the_ledger_may_have_forgotten_is_neither_repeated_nor_called_unwritten(
    client: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when the caller's own workers were down for weeks.
    monkeypatch.setattr(call, "MAX_REQUEST_AGE", timedelta(milliseconds=100))
    queue, ledger = FakeQueue(), MemorySink()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        order = Order(batcher_task_queue=name, confirm_timeout_s=1.0)
        failure = await failure_of(await start(client, name, order))
    assert failure.type == "WriteOutcomeUnknown"
    assert "the ledger may have forgotten it" in failure.message
    assert (len(queue.requests), [one.outcome for one in ledger.settled]) == (1, [Outcome.WITHDRAWN])
