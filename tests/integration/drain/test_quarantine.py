"""Suspected poison records are quarantined, that is written alone, and become dead letters if they end drains."""

import pytest

from tests.support.drain_stage import Stage
from tests.support.redis_kinds import AnyRedis, tell_all
from tests.support.waiting import eventually
from write_batcher.activities.drain.take import ALONE_AFTER_DELIVERIES
from write_batcher.activities.drain.write import MAX_DEATHS_ALONE
from write_batcher.errors import QueueUnavailable
from write_batcher.models import Batch, Outcome, WriteReceipt
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
    [poison, _] = await stage.queue.read_pending(after="0", count=100)
    for _ in range(MAX_DEATHS_ALONE):
        await stage.queue.begin_alone(poison)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["fine"]
    [receipt] = stage.temporal.receipts("poison")
    assert (receipt.outcome, receipt.error) == (Outcome.REJECTED, "Writing this record alone has ended 7 drains.")
    assert (await stage.statistics()).dead == 1


async def test_record_that_crashes_the_sink_becomes_a_dead_letter(stage: Stage) -> None:
    write = stage.sink.write

    async def fail_on_poison(batch: Batch) -> list[WriteReceipt]:
        if any(request.request_id == "poison" for request in batch.requests):
            raise TypeError("a defect of the sink")
        return await write(batch)

    stage.sink.write = fail_on_poison  # type: ignore[method-assign]
    await stage.append("poison", "fine")
    for _ in range(ALONE_AFTER_DELIVERIES + MAX_DEATHS_ALONE + 3):
        async with stage.draining() as running:
            running.crashed = True
            await eventually(lambda: running.task.done() or stage.is_empty())
        if await stage.is_empty():
            break
    assert stage.sink.row_ids == ["fine"]
    assert [receipt.outcome for receipt in stage.temporal.receipts("poison")] == [Outcome.REJECTED]


async def test_outage_does_not_count_against_a_quarantined_entry(stage: Stage) -> None:
    await stage.append("a")
    await stage.deliver_without_writing(ALONE_AFTER_DELIVERIES)
    stage.sink.outage = "away"
    async with stage.draining():
        await eventually(lambda: stage.sink.attempts > 2 * MAX_DEATHS_ALONE)
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
