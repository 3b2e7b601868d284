"""When the drain closes a batch, and what it puts into it."""

import asyncio
from datetime import timedelta

from tests.support.drain_stage import EMPTY, NEVER, Stage
from tests.support.waiting import eventually
from write_batcher.models import FlushReason, Outcome


async def test_batch_closes_by_size(stage: Stage) -> None:
    stage.max_items, stage.max_wait = 2, NEVER
    await stage.append("a", "b", "c", "d", "e")
    async with stage.draining():
        await eventually(lambda: len(stage.sink.batches) == 2)
    assert stage.sink.batch_ids == [["a", "b"], ["c", "d"], ["e"]]
    assert stage.sink.reasons == [FlushReason.SIZE, FlushReason.SIZE, FlushReason.STOP]


async def test_batch_closes_by_bytes(stage: Stage) -> None:
    fields = await stage.fields("a", "a") | {b"counted": b"1" * 13}
    size = sum(len(name) + len(value) for name, value in fields.items())
    stage.max_bytes, stage.max_wait = 2 * size, NEVER
    await stage.append("a", "b", "c")
    async with stage.draining():
        await eventually(lambda: stage.sink.batch_ids == [["a", "b"]])
    assert stage.sink.reasons == [FlushReason.BYTES, FlushReason.STOP]


async def test_batch_closes_when_its_oldest_entry_has_waited(stage: Stage) -> None:
    stage.max_wait = timedelta(milliseconds=300)
    async with stage.draining():
        started = asyncio.get_running_loop().time()
        await stage.append("a", "b")
        await eventually(lambda: stage.sink.batch_ids == [["a", "b"]])
        waited = asyncio.get_running_loop().time() - started
    assert stage.sink.reasons == [FlushReason.WAIT]
    assert waited >= 0.29


async def test_batch_closes_on_a_flush(stage: Stage) -> None:
    stage.max_wait = NEVER
    await stage.append("a")
    await stage.queue.append_flush()
    await stage.append("b")
    async with stage.draining():
        await eventually(lambda: stage.sink.batch_ids == [["a"]])
    assert stage.sink.reasons == [FlushReason.FLUSH, FlushReason.STOP]
    assert await stage.counts() == EMPTY


async def test_restart_does_not_begin_the_wait_anew(stage: Stage) -> None:
    # Written in one full batch at once: the wait of these entries was over long ago.
    stage.max_wait = timedelta(minutes=1)
    long_ago = await stage.queue.now_ms() - 120_000
    for number in range(20):
        await stage.append_foreign(f"r{number}", entry_id=f"{long_ago}-{number + 1}")
    async with stage.draining():
        await eventually(lambda: len(stage.sink.rows) == 20, within_s=5)
    assert [len(ids) for ids in stage.sink.batch_ids] == [20]
    assert stage.sink.reasons == [FlushReason.WAIT]


async def test_overdue_backlog_is_written_in_full_batches(stage: Stage) -> None:
    stage.max_items, stage.max_wait = 10, timedelta(minutes=1)
    long_ago = await stage.queue.now_ms() - 120_000
    for number in range(25):
        await stage.append_foreign(f"r{number}", entry_id=f"{long_ago}-{number + 1}")
    async with stage.draining():
        await eventually(lambda: len(stage.sink.rows) == 25, within_s=5)
    assert [len(ids) for ids in stage.sink.batch_ids] == [10, 10, 5]


async def test_request_id_that_is_queued_twice_is_in_two_batches(stage: Stage) -> None:
    await stage.append_foreign("a")
    await stage.append_foreign("a")
    await stage.append_foreign("b")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.batch_ids == [["a", "b"], ["a"]]
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")] == [Outcome.WRITTEN, Outcome.DUPLICATE]
