"""Entries that can never be written become dead letters, their callers are told, and nobody else is held up."""

from dataclasses import replace

import pytest

from tests.support.drain_stage import NEW_ATTEMPT, BreakableSink, Stage
from tests.support.waiting import eventually
from write_batcher.models import Outcome


async def test_rejected_record_is_confirmed_and_dead_lettered_alone(stage: Stage) -> None:
    stage.sink = BreakableSink(lambda request: "too long" if request.request_id == "bad" else None)
    await stage.append("good", "bad", "fine")
    async with stage.draining():
        await eventually(stage.is_empty)
    [receipt] = stage.temporal.receipts("bad")
    [dead] = await stage.dead_letters()
    assert (receipt.outcome, receipt.error) == (Outcome.REJECTED, "too long")
    assert (dead[b"dead-reason"], dead[b"id"]) == (b"too long", b"bad")
    assert stage.sink.row_ids == ["good", "fine"]


async def test_garbage_is_dead_lettered_with_its_reason_and_stops_nobody(stage: Stage) -> None:
    await stage.redis.xadd(stage.queue.stream_key, {b"gar": b"\xff"})
    await stage.append("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    [dead] = await stage.dead_letters()
    assert (dead[b"dead-reason"], dead[b"gar"]) == (b"Version None is not b'1'.", b"\xff")
    assert stage.sink.row_ids == ["a"]


async def test_caller_of_an_undecodable_entry_is_told_why(stage: Stage) -> None:
    await stage.append_foreign("a", changes={b"payload": b"\xff"})
    async with stage.draining():
        await eventually(stage.is_empty)
    [receipt] = stage.temporal.receipts("a")
    assert (receipt.request_id, receipt.outcome) == ("a", Outcome.REJECTED)
    assert (receipt.error or "").startswith("Not a write request")


@pytest.mark.parametrize("field", [b"v", b"id", b"reply", b"payload"], ids=bytes.decode)
async def test_huge_garbage_is_one_dead_letter_and_stops_nobody(
    stage: Stage, caplog: pytest.LogCaptureFixture, field: bytes
) -> None:
    await stage.append("before")
    await stage.append_foreign("huge", changes={field: b"x" * 64 * 1024 * 1024})
    await stage.append("after")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert await stage.counts() == (0, 0, 1)
    await stage.redis.delete(stage.queue.dead_key)
    assert sorted(stage.sink.row_ids) == ["after", "before"]
    assert len(str(stage.temporal.receipts("huge"))) < 2000
    assert len(caplog.text) < 10_000


async def test_caller_whose_address_fits_into_no_signal_is_not_told(stage: Stage) -> None:
    await stage.append_for(replace(NEW_ATTEMPT, attempt="x" * 2_000_000), "huge")
    await stage.append("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    [dead] = await stage.dead_letters()
    assert dead[b"dead-reason"].endswith(b"bytes, the limit is 8192.")
    assert (stage.sink.row_ids, stage.temporal.receipts("caller")) == (["a"], [])


async def test_entry_with_an_absurd_age_stops_nobody(stage: Stage) -> None:
    await stage.append_foreign("a", changes={b"first": b"9" * 5_000})
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]


async def test_request_older_than_the_ledger_remembers_is_rejected(stage: Stage) -> None:
    await stage.append_foreign("a", entry_id="1000-0")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == []
    assert "longer than the ledger remembers" in str(stage.temporal.receipts("a")[0].error)
