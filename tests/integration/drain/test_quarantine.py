"""Suspected poison records are quarantined, that is written alone, and become dead letters if they end drains."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.drain_stage import Answers, Stage
from tests.support.redis_kinds import AnyRedis, tell_all
from tests.support.waiting import eventually
from write_batcher.activities.drain.read import ALONE_AFTER_DELIVERIES
from write_batcher.activities.drain.write_again import MAX_TRIES_ALONE, MAX_TRIES_TO_SETTLE
from write_batcher.errors import QueueUnavailable
from write_batcher.models import Outcome
from write_batcher.queue.stream_entry import StreamEntry


async def test_entries_delivered_often_are_written_alone_and_others_together(stage: Stage) -> None:
    await stage.append("a", "b")
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    await stage.append("c", "d")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert sorted(stage.sink.batch_ids) == [["a"], ["b"], ["c", "d"]]
    assert await stage.redis.exists(stage.queue.alone_key) == 0


async def test_entry_that_ends_drain_after_drain_becomes_a_dead_letter(stage: Stage) -> None:
    await stage.append("poison", "fine")
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    [poison, _] = await stage.pending()
    for _ in range(MAX_TRIES_ALONE):
        await stage.queue.begin_alone(poison)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["fine"]
    [receipt] = stage.temporal.receipts("poison")
    assert (receipt.outcome, receipt.error) == (
        Outcome.REJECTED,
        "Writing this record alone has failed or ended its drain 7 times",
    )
    assert (await stage.statistics()).dead == 1


async def test_record_that_makes_the_sink_raise_is_one_dead_letter_without_a_crash(stage: Stage) -> None:
    stage.sink.raise_for("poison", TypeError("a defect of the sink"))
    await stage.append("poison", "fine")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["fine"]
    [receipt] = stage.temporal.receipts("poison")
    assert receipt.outcome is Outcome.REJECTED
    assert (receipt.error or "").endswith("7 times, last with TypeError: a defect of the sink")
    assert (await stage.statistics()).dead == 1


async def test_tries_of_a_poison_record_are_counted_over_restarts(stage: Stage) -> None:
    stage.sink.raise_for("poison", TypeError("a defect of the sink"))
    await stage.append("poison")
    for _ in range(MAX_TRIES_ALONE):
        if await stage.is_empty():
            break
        async with stage.draining() as running:
            await _tried_again_or_gone(stage, stage.sink.attempts)
            await running.crash()
    async with stage.draining():
        await eventually(stage.is_empty)
    assert [receipt.outcome for receipt in stage.temporal.receipts("poison")] == [Outcome.REJECTED]


@pytest.mark.parametrize("raised", [UnicodeEncodeError("latin-1", "ж", 0, 1, "not in it"), asyncio.CancelledError()])
async def test_record_that_nobody_can_even_settle_is_one_dead_letter(stage: Stage, raised: BaseException) -> None:
    stage.sink.raise_for("poison", raised)
    stage.sink.raise_when_settling(raised)
    await stage.append("poison", "fine")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["fine"]
    assert stage.temporal.receipts("poison") == []  # only the ledger knows; the caller settles
    statistics = await stage.statistics()
    assert (statistics.dead, statistics.counters["dead"]) == (1, 1)


async def test_entry_whose_settling_ends_drains_is_a_dead_letter_in_the_end(stage: Stage) -> None:
    await stage.append("poison")
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    [poison] = await stage.pending()
    for _ in range(MAX_TRIES_ALONE + MAX_TRIES_TO_SETTLE):
        await stage.queue.begin_alone(poison)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert (stage.sink.settled, (await stage.statistics()).dead) == ([], 1)


async def test_poison_record_that_was_committed_after_all_is_confirmed_as_written(stage: Stage) -> None:
    await stage.append("a")
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    stage.sink.spoil = lambda _: []  # each try commits, and breaks the contract
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")] == [Outcome.WRITTEN]
    assert (await stage.statistics()).dead == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answers: answers[:1],
        lambda answers: answers[::-1],
        lambda answers: [*answers, answers[0]],
        lambda answers: None,
        lambda answers: [replace(answer, outcome=Outcome.QUEUED) for answer in answers],
    ],
    ids=["too few", "reversed", "too many", "nothing", "no outcome"],
)
async def test_broken_answers_about_a_batch_are_asked_for_one_by_one(
    stage: Stage, spoil: Callable[[Answers], Answers]
) -> None:
    stage.sink.spoil = lambda answers: spoil(answers) if len(answers) > 1 else answers
    await stage.append("a", "b")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert sorted(stage.sink.row_ids) == ["a", "b"]
    assert sorted(stage.sink.batch_ids[1:]) == [["a"], ["b"]]


async def test_outage_does_not_count_against_a_quarantined_entry(stage: Stage) -> None:
    await stage.append("a")
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    stage.sink.outage = "away"
    async with stage.draining():
        await eventually(lambda: stage.sink.attempts > 2 * MAX_TRIES_ALONE)
        stage.sink.outage = None
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]


async def test_quarantined_entries_are_written_when_redis_is_out_of_memory(
    breakable: tuple[Stage, AnyRedis],
) -> None:
    stage, server = breakable
    suspects = [f"suspect-{number}" for number in range(150)]  # more than one read returns
    await stage.append(*suspects)
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    await stage.append("fresh")
    await tell_all(server, "CONFIG SET", "maxmemory", 1)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert sorted(stage.sink.row_ids) == sorted([*suspects, "fresh"])


async def test_entries_redelivered_repeatedly_do_not_hold_up_new_ones(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.append("a", "b", "c")
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    await stage.append("fresh")
    stage.max_items = 2  # fewer than are redelivered

    async def refuse(entry: StreamEntry) -> None:
        raise QueueUnavailable("refused")

    begin_alone = stage.queue.begin_alone
    monkeypatch.setattr(stage.queue, "begin_alone", refuse)
    async with stage.draining():
        await eventually(lambda: stage.sink.row_ids == ["fresh"])
        monkeypatch.setattr(stage.queue, "begin_alone", begin_alone)
        await eventually(stage.is_empty)


async def _tried_again_or_gone(stage: Stage, tries: int) -> None:
    async def is_so() -> bool:
        return stage.sink.attempts > tries + 2 or await stage.is_empty()

    await eventually(is_so)
