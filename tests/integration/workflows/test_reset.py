"""An operator repairs a cause and resets the workflow that failed. It then writes under its old request id: what the
attempt before the reset was told does not fail it, and stale entries write nothing.

`ReplyAddress.attempt` begins with the workflow's random seed. A reset gives the run a new one, which the SDK applies
with the first workflow task after the reset point; what was submitted before that point keeps its attempt.
"""

import pytest

from tests.support.order_callers import (
    CONFIRMING_MODES,
    Handle,
    Stack,
    events_of,
    failure_of,
    finished_tasks,
    kinds_of,
    receipts_of,
    replays,
    reset,
)
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy, Outcome

both_modes = pytest.mark.parametrize("confirm_by", CONFIRMING_MODES)
FIRST, LAST = 0, -1


async def reset_to(stack: Stack, handle: Handle, task: int) -> Handle:
    return await reset(stack.client, handle, (await finished_tasks(handle))[task])


async def rejected(stack: Stack, confirm_by: ConfirmBy) -> Handle:
    """A workflow that failed because the database refuses its record, which it no longer does."""
    stack.sink.refuse_all("no such column")
    await stack.drain()
    handle = await stack.start(confirm_by=confirm_by)
    assert (await failure_of(handle)).type == "WriteRejected"
    await eventually(stack.has_dead_letter)
    stack.sink.refuse_all(None)
    return handle


async def not_confirmed(stack: Stack, confirm_by: ConfirmBy) -> Handle:
    """A workflow that failed because nobody drained its queue; its entries are still there."""
    handle = await stack.start(confirm_by=confirm_by, confirm_timeout_s=4.0)
    assert (await failure_of(handle)).type == "WriteNotConfirmed"
    return handle


@both_modes
async def test_rejected_workflow_that_is_reset_writes_under_the_same_request_id(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    async with stack.caller():
        handle = await rejected(stack, confirm_by)
        again = await reset_to(stack, handle, FIRST)
        [receipt] = await receipts_of(again)
    [letter] = await stack.letters.page()
    assert (receipt.outcome, receipt.request_id) == (Outcome.WRITTEN, letter.request_id)
    assert [row.request_id for row in stack.sink.rows] == [letter.request_id]
    await replays(again)


async def test_rejection_redelivered_by_a_reset_does_not_fail_the_new_attempt(stack: Stack) -> None:
    async with stack.caller():
        handle = await rejected(stack, ConfirmBy.SIGNAL)
        again = await reset_to(stack, handle, FIRST)
        [receipt] = await receipts_of(again)
    signals = [
        event.workflow_execution_signaled_event_attributes.input.payloads[0].data.decode()
        for event in await events_of(again)
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert ["rejected" in signal for signal in signals] == [True, False]
    assert receipt.outcome is Outcome.WRITTEN


@both_modes
async def test_dead_letter_from_before_a_reset_is_not_written_a_second_time_when_replayed(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    async with stack.caller():
        handle = await rejected(stack, confirm_by)
        await receipts_of(await reset_to(stack, handle, FIRST))
        [letter] = await stack.letters.page()
        await stack.letters.replay(letter)
        await eventually(lambda: stack.holds(0))
    assert len(stack.sink.rows) == 1


@both_modes
async def test_unconfirmed_workflow_that_is_reset_writes_once(stack: Stack, confirm_by: ConfirmBy) -> None:
    async with stack.caller():
        handle = await not_confirmed(stack, confirm_by)
        stale = (await stack.queue.statistics()).backlog
        again = await reset_to(stack, handle, FIRST)
        await eventually(lambda: stack.holds(stale + 1))
        await stack.drain()
        [receipt] = await receipts_of(again)
        await eventually(lambda: stack.holds(0))
    [row] = stack.sink.rows
    [withdrawn] = stack.sink.settled
    assert (receipt.outcome, receipt.request_id) == (Outcome.WRITTEN, withdrawn.request_id)
    assert (row.attempt == receipt.attempt, row.attempt == withdrawn.attempt) == (True, False)
    await replays(again)


@pytest.mark.thorough
@both_modes
async def test_stale_entries_stay_unwritten_when_they_come_before_the_reset(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    async with stack.caller():
        handle = await not_confirmed(stack, confirm_by)
        await stack.drain()
        await eventually(lambda: stack.holds(0))
        assert stack.sink.rows == []
        [receipt] = await receipts_of(await reset_to(stack, handle, FIRST))
    assert receipt.outcome is Outcome.WRITTEN
    assert len(stack.sink.rows) == 1


@both_modes
async def test_workflow_that_was_written_and_is_reset_gets_a_duplicate(stack: Stack, confirm_by: ConfirmBy) -> None:
    await stack.drain()
    async with stack.caller():
        handle = await stack.start(confirm_by=confirm_by)
        [first] = await receipts_of(handle)
        again = await reset_to(stack, handle, FIRST)
        [second] = await receipts_of(again)
    assert (second.request_id, second.batch_id) == (first.request_id, first.batch_id)
    assert second.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE)
    assert len(stack.sink.rows) == 1
    await replays(again)


@both_modes
async def test_rejected_workflow_that_is_reset_to_its_last_task_fails_again(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    # Its submit lies before the reset point, and what it was told is about that one. Such a workflow has to be reset to
    # a task before the submit, as in the other tests.
    async with stack.caller():
        handle = await rejected(stack, confirm_by)
        again = await reset_to(stack, handle, LAST)
        assert (await failure_of(again)).type == "WriteRejected"
        assert (await kinds_of(again)).count("activity task scheduled") == 1
    assert stack.sink.rows == []
    await replays(again)


@pytest.mark.thorough
@both_modes
async def test_unconfirmed_workflow_that_is_reset_to_its_last_task_fails_again(
    stack: Stack, confirm_by: ConfirmBy
) -> None:
    # The result of the settling lies before the reset point.
    async with stack.caller():
        handle = await not_confirmed(stack, confirm_by)
        again = await reset_to(stack, handle, LAST)
        assert (await failure_of(again)).type == "WriteNotConfirmed"
    await replays(again)


@both_modes
async def test_workflow_that_is_reset_while_it_waits_gets_its_receipt(stack: Stack, confirm_by: ConfirmBy) -> None:
    async with stack.caller():
        handle = await stack.start(confirm_by=confirm_by)
        await eventually(lambda: stack.holds(1))
        again = await reset_to(stack, handle, FIRST)
        await eventually(lambda: stack.holds(2))
        await stack.drain()
        [receipt] = await receipts_of(again)
        await eventually(lambda: stack.holds(0))
    assert receipt.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE)
    assert len(stack.sink.rows) == 1


@both_modes
async def test_withdrawal_after_a_reset_binds_the_attempt_before_it_too(stack: Stack, confirm_by: ConfirmBy) -> None:
    async with stack.caller():
        handle = await stack.start(confirm_by=confirm_by, confirm_timeout_s=2.0)
        await eventually(lambda: stack.holds(1))
        again = await reset_to(stack, handle, FIRST)
        assert (await failure_of(again)).type == "WriteNotConfirmed"
        await stack.drain()
        await eventually(lambda: stack.holds(0))
    assert stack.sink.rows == []
