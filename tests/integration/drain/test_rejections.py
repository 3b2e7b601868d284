"""Entries that can never be written become dead letters, their callers are told, and nobody else is held up."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.drain_stage import MAX_REQUEST_BYTES, NEW_ATTEMPT, BreakableSink, Stage
from tests.support.waiting import eventually
from write_batcher.models import Outcome
from write_batcher.queue.signing import Signer


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
    assert (dead[b"dead-reason"], dead[b"gar"]) == (
        b"The entry has no version (b''): it is not a write request.",
        b"\xff",
    )
    assert stage.sink.row_ids == ["a"]


async def test_caller_of_an_undecodable_entry_is_not_told(stage: Stage) -> None:
    # A batcher with another codec may have written it: only the ledger knows.
    await stage.append_foreign("a", changes={b"payload": b"\xff"})
    async with stage.draining():
        await eventually(stage.is_empty)
    [dead] = await stage.dead_letters()
    assert dead[b"dead-reason"].startswith(b"Not a write request")
    assert stage.temporal.receipts("a") == []


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
    assert stage.temporal.receipts("huge") == []
    assert len(caplog.text) < 10_000


async def test_caller_whose_address_fits_into_no_signal_is_not_told(stage: Stage) -> None:
    await stage.append_for(replace(NEW_ATTEMPT, attempt="x" * 2_000_000), "huge")
    await stage.append("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    [dead] = await stage.dead_letters()
    assert b"the limit is 300000" in dead[b"dead-reason"]
    assert (stage.sink.row_ids, stage.temporal.receipts("caller")) == (["a"], [])


async def test_entry_with_an_absurd_age_stops_nobody(stage: Stage) -> None:
    await stage.append_foreign("a", changes={b"first": b"9" * 5_000})
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]


async def test_request_older_than_the_ledger_remembers_is_rejected(stage: Stage) -> None:
    seven_days_ago = await stage.queue.now_ms() - timedelta(days=7, minutes=1) // timedelta(milliseconds=1)
    await stage.append_foreign("a", entry_id=f"{seven_days_ago}-0")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == []
    assert "longer than the ledger remembers" in str(stage.temporal.receipts("a")[0].error)
    assert (await stage.statistics()).dead == 1


async def test_too_old_request_that_was_written_is_confirmed_as_written(stage: Stage) -> None:
    await stage.write_without_acknowledging("a")
    stage.max_age = timedelta(0)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")] == [Outcome.WRITTEN]
    assert (await stage.statistics()).dead == 0


async def test_request_that_the_ledger_has_forgotten_is_a_dead_letter_untold(stage: Stage) -> None:
    await stage.append_foreign("a", entry_id="1000-0")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert (stage.sink.row_ids, stage.sink.settled, stage.temporal.receipts("a")) == ([], [], [])
    assert (await stage.statistics()).dead == 1


async def test_entry_that_is_too_large_is_a_dead_letter_untold(stage: Stage) -> None:
    await stage.append_foreign("huge", changes={b"payload": b"x" * (MAX_REQUEST_BYTES + 2048)})
    await stage.append("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    [dead] = await stage.dead_letters()
    assert b"the limit is 300000: raise the batcher's max_request_bytes" in dead[b"dead-reason"]
    assert (stage.sink.row_ids, stage.temporal.receipts("huge")) == (["a"], [])


async def test_dead_letters_are_kept_up_to_their_maximum(stage: Stage) -> None:
    stage.max_dead_letters = 3
    stage.sink.refuse_all("too long")
    await stage.append("a", "b", "c", "d", "e")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert [letter[b"id"] for letter in await stage.dead_letters()] == [b"c", b"d", b"e"]
    assert (await stage.statistics()).counters["dead_trimmed"] == 2


@pytest.mark.parametrize("wrong", ["unsigned", "other key", "changed", "said to be replayed", "asked long ago"])
async def test_entry_without_a_right_signature_is_a_dead_letter_untold(stage: Stage, wrong: str) -> None:
    stage.signer = Signer("secret", stage.ref)
    now = await stage.queue.now_ms()
    fields = await stage.fields("a", "a") | {b"asked": str(now).encode()}
    match wrong:
        case "other key":
            fields = Signer("guessed", stage.ref).signed(fields)
        case "changed":
            fields = stage.signer.signed(fields) | {b"reply": b'{"mode":"signal","workflow_id":"victim"}'}
        case "said to be replayed":
            fields = stage.signer.signed(fields) | {b"replayed": b"1"}
        case "asked long ago":
            asked = now - timedelta(days=8) // timedelta(milliseconds=1)
            fields = stage.signer.signed(fields | {b"asked": str(asked).encode()})
    await stage.queue.append(fields, max_backlog=10)
    good = await stage.fields("good", "good") | {b"asked": str(now).encode()}
    await stage.queue.append(stage.signer.signed(good), max_backlog=10)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["good"]
    assert [caller for caller, _receipts in stage.temporal.signals] == ["good"]
    assert (await stage.statistics()).dead == 1


@pytest.mark.parametrize(
    "repeated",
    [
        (b"id", b"short", b"id", b"x" * 9000),
        (b"id", b"short", *(part for number in range(60) for part in (b"f%d" % number, b"z")), b"id", b"late"),
        (b"id", b"short", b"counted", b"1", b"counted", b"x" * 9000),
    ],
    ids=["too long", "one too many", "counted"],
)
async def test_huge_entry_with_a_field_of_which_only_one_value_is_kept_is_a_dead_letter(
    stage: Stage, repeated: tuple[bytes, ...]
) -> None:
    payload = b"x" * (MAX_REQUEST_BYTES + 2048)
    add: tuple[str | bytes, ...] = ("XADD", stage.queue.stream_key, "*", "v", "1", *repeated, "payload", payload)
    await stage.redis.execute_command(*add)  # type: ignore[no-untyped-call]
    async with stage.draining():
        await eventually(stage.is_empty)
    assert len(await stage.dead_letters()) == 1
