"""What callers are told, and how: by signal, by completion, and again after a failure."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.drain_stage import CALLER_ENDED, CODEC, NEVER, NEW_ATTEMPT, OLD_ATTEMPT, TEMPORAL_AWAY, Stage
from tests.support.waiting import eventually
from write_batcher.activities.drain import confirm as confirm_module
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.models import ConfirmBy, FlushReason, Outcome, WriteReceipt, WriteRequest
from write_batcher.queue.record_encoding import with_hash


async def test_receipt_describes_its_batch(stage: Stage) -> None:
    await stage.append("a", "b", caller="caller")
    async with stage.draining():
        await eventually(lambda: len(stage.temporal.receipts("caller")) == 2)
    [batch] = stage.sink.batches
    first = stage.temporal.receipts("caller")[0]
    assert replace(first, queued_ms=None, write_ms=None, confirm_ms=None) == WriteReceipt(
        request_id="a",
        outcome=Outcome.WRITTEN,
        queue=stage.partition.queue,
        attempt="run",
        record_hash=with_hash(batch.requests[0]).record_hash,
        batch_id=batch.batch_id,
        batch_size=2,
        flush_reason=FlushReason.WAIT,
    )


async def test_receipt_tells_how_long_its_request_was_queued(stage: Stage) -> None:
    stage.max_wait = timedelta(milliseconds=300)
    async with stage.draining():
        await stage.append("a", "b", caller="caller")
        await eventually(lambda: len(stage.temporal.receipts("caller")) == 2)
    for receipt in stage.temporal.receipts("caller"):
        assert 250 <= (receipt.queued_ms or 0) < 5_000


async def test_receipt_counts_the_time_queued_before_the_drain_began(stage: Stage) -> None:
    long_ago = await stage.queue.now_ms() - 120_000
    await stage.append_foreign("a", entry_id=f"{long_ago}-1")
    async with stage.draining():
        await eventually(lambda: len(stage.temporal.receipts("a")) == 1)
    assert 120_000 <= (stage.temporal.receipts("a")[0].queued_ms or 0) < 130_000


async def test_receipt_tells_how_long_its_transaction_took(stage: Stage) -> None:
    stage.sink.delay_s = 0.2
    await stage.append("a")
    async with stage.draining():
        await eventually(lambda: len(stage.temporal.receipts("a")) == 1)
    [receipt] = stage.temporal.receipts("a")
    assert 190 <= (receipt.write_ms or 0) < 5_000
    assert 0 <= (receipt.confirm_ms or 0) < 190


async def test_receipt_that_is_sent_again_counts_the_delay(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm_module, "BACKOFF", Backoff(0.2, 0.2))
    stage.temporal.fail("a", TEMPORAL_AWAY, times=1)
    await stage.append("a")
    async with stage.draining():
        await eventually(lambda: len(stage.temporal.receipts("a")) == 1)
    assert 50 <= (stage.temporal.receipts("a")[0].confirm_ms or 0) < 5_000


async def test_latencies_of_all_three_stages_are_counted(stage: Stage) -> None:
    await stage.append("a")
    await stage.append_for(replace(NEW_ATTEMPT, mode=ConfirmBy.NONE), "b")
    async with stage.draining() as running:
        await eventually(stage.is_empty)
        await running.stop()
    counters = (await stage.statistics()).counters

    def latencies(name: str) -> int:
        return sum(number for counter, number in counters.items() if counter.startswith(f"{name}_below_"))

    assert (latencies("queued"), latencies("write"), latencies("confirm")) == (2, 1, 1)


async def test_entry_of_a_caller_that_has_ended_is_acknowledged(stage: Stage) -> None:
    stage.temporal.fail("a", CALLER_ENDED)
    await stage.append("a")
    async with stage.draining() as running:
        await eventually(stage.is_empty)
        progress = (await running.stop()).progress
    assert (progress.written, progress.without_caller, progress.confirmed) == (1, 1, 0)


async def test_request_without_a_caller_is_written_and_acknowledged(stage: Stage) -> None:
    fields = await CODEC.encode(WriteRequest(request_id="a", table="orders", record={}))
    await stage.queue.append(fields, max_backlog=10)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert (stage.sink.row_ids, stage.temporal.signals) == (["a"], [])


async def test_caller_that_wants_no_receipt_gets_none(stage: Stage) -> None:
    await stage.append_for(replace(NEW_ATTEMPT, mode=ConfirmBy.NONE), "a")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert (stage.sink.row_ids, stage.temporal.signals) == (["a"], [])


async def test_signal_that_fails_is_sent_again(stage: Stage) -> None:
    stage.temporal.fail("a", TEMPORAL_AWAY, times=3)
    await stage.append("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.temporal.attempts["a"] == 4
    assert len(stage.sink.batches) == 1


async def test_unreachable_caller_holds_up_nobody_else(stage: Stage) -> None:
    stage.temporal.fail("slow", TEMPORAL_AWAY)
    await stage.append("slow", "a")
    async with stage.draining():
        await eventually(lambda: len(stage.temporal.receipts("a")) == 1)
        await stage.append("b")
        await eventually(lambda: len(stage.temporal.receipts("b")) == 1)
        await eventually(lambda: stage.holds(1))
    assert await stage.counts() == (1, 1, 0)


async def test_write_whose_signal_fails_for_long_is_confirmed_by_redelivery(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirm_module, "RETRY_FOR", timedelta(milliseconds=50))
    stage.temporal.fail("a", TEMPORAL_AWAY)
    await stage.append("a")
    async with stage.draining():
        await eventually(lambda: len(stage.sink.batches) >= 2)
        stage.temporal.fail("a", TEMPORAL_AWAY, times=0)
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")][:1] == [Outcome.DUPLICATE]


async def test_receipts_of_one_caller_go_in_one_signal(stage: Stage) -> None:
    stage.max_items, stage.max_wait = 3, NEVER
    await stage.append("a", "b", caller="caller")
    await stage.append("other")
    async with stage.draining():
        await eventually(stage.is_empty)
    signals = {caller: [receipt.request_id for receipt in receipts] for caller, receipts in stage.temporal.signals}
    assert signals == {"caller": ["a", "b"], "other": ["other"]}


async def test_receipts_of_different_attempts_go_in_one_signal(stage: Stage) -> None:
    stage.max_items, stage.max_wait = 2, NEVER
    await stage.append_for(OLD_ATTEMPT, "a")
    await stage.append_for(NEW_ATTEMPT, "b")
    async with stage.draining():
        await eventually(stage.is_empty)
    [(caller, receipts)] = stage.temporal.signals
    assert (caller, [(receipt.request_id, receipt.attempt) for receipt in receipts]) == (
        "caller",
        [("a", "old"), ("b", "new")],
    )


async def test_each_activity_of_a_caller_is_completed_with_its_own_receipt(stage: Stage) -> None:
    first, second = [replace(OLD_ATTEMPT, mode=ConfirmBy.COMPLETION, activity_id=number) for number in ("1", "2")]
    await stage.append_for(first, "a")
    await stage.append_for(second, "b")
    async with stage.draining():
        await eventually(stage.is_empty)
    completed = {(*address, receipt.request_id) for *address, receipt in stage.temporal.completions}
    assert completed == {("caller", "run-1", "1", "a"), ("caller", "run-1", "2", "b")}
    assert stage.temporal.signals == []


@pytest.mark.parametrize("gone", ["activity", "workflow"])
async def test_entry_whose_activity_is_gone_is_written_and_acknowledged(stage: Stage, gone: str) -> None:
    stage.temporal.fail("1", CALLER_ENDED)
    if gone == "workflow":
        stage.temporal.fail("caller", CALLER_ENDED)
    await stage.append_for(replace(OLD_ATTEMPT, mode=ConfirmBy.COMPLETION, activity_id="1"), "a")
    async with stage.draining() as running:
        await eventually(stage.is_empty)
        progress = (await running.stop()).progress
    assert stage.sink.row_ids == ["a"]
    assert (progress.confirmed, progress.without_caller) == ((1, 0) if gone == "activity" else (0, 1))


async def test_withdrawn_attempt_is_not_written_but_a_later_one_is(stage: Stage) -> None:
    await stage.append_for(OLD_ATTEMPT, "a")
    await stage.withdraw("a", OLD_ATTEMPT)
    await stage.append_for(NEW_ATTEMPT, "a")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert [row.attempt for row in stage.sink.rows] == ["new"]
    assert [(receipt.attempt, receipt.outcome) for receipt in stage.temporal.receipts("caller")] == [
        ("old", Outcome.WITHDRAWN),
        ("new", Outcome.WRITTEN),
    ]


async def test_no_attempt_is_written_when_all_were_withdrawn(stage: Stage) -> None:
    for attempt in (OLD_ATTEMPT, NEW_ATTEMPT):
        await stage.append_for(attempt, "a")
        await stage.withdraw("a", attempt)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == []
