"""Listing, showing, replaying and discarding dead letters, and what their callers are told."""

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.operated_queue import ALL, OperatedQueue
from tests.support.order_callers import Order, caller, failure_of, receipts_of, start
from tests.support.waiting import eventually
from write_batcher.activities.drain.receipt_sender import ReceiptSender
from write_batcher.activities.enqueue import EnqueueActivities
from write_batcher.models import ConfirmBy, Outcome, ReplyAddress, WriteRequest
from write_batcher.queue import dead_letters as dead_letters_module
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec, Fields
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.operating.dead_letter_callers import LeftBecause
from write_batcher.workers.operating.dead_letter_repair import CallerNotice, QueueLetters
from write_batcher.workers.operating.stream_ids import LetterId
from write_batcher.workflows.write_options import OnRejected


async def test_list_shows_dead_letters_of_all_partitions_after_a_queue_shrank(queue: OperatedQueue) -> None:
    await queue.announce()
    first = await queue.add_dead_letter(await queue.fields("bad\n1"), "cents is\x1b[2J not a number")
    second = await queue.add_dead_letter({b"what": b"is this"}, "Version None is not b'1'.", partition=1)

    status, output, _ = await queue.command("dead-letters", "list")
    assert status == 0
    [one, other] = [line.split("\t") for line in output.splitlines()]
    assert (one[0], one[2:]) == (str(first), ["bad\\n1", "orders", "cents is\\x1b[2J not a number"])
    assert (other[0], other[2:]) == (str(second), ["-", "-", "Version None is not b'1'."])

    status, output, _ = await queue.command("dead-letters", "list", "--json")
    listed = [json.loads(line) for line in output.splitlines()]
    assert [(one["id"], one["request_id"], one["table"]) for one in listed] == [
        (str(first), "bad\n1", "orders"),
        (str(second), "", None),
    ]


async def test_show_prints_the_record_or_why_it_cannot_be_decoded(queue: OperatedQueue) -> None:
    await queue.announce()
    readable = await queue.add_dead_letter(await queue.fields("bad-1"), "cents is not a number")
    foreign = await queue.add_dead_letter({b"what": b"is \xff"}, "Version None is not b'1'.")
    status, output, _ = await queue.command("dead-letters", "show", str(readable))
    assert status == 0
    for line in ("reason: cents is not a number", "request id: bad-1", "table: orders", 'record: {"item": "tea"}'):
        assert f"{line}\n" in output
    status, output, _ = await queue.command("dead-letters", "show", str(foreign))
    assert status == 0
    for line in (
        "record: cannot be decoded: The entry has no version (b''): it is not a write request.",
        r"field what: b'is \xff'",
    ):
        assert f"{line}\n" in output


async def test_dry_run_lists_the_selected_and_changes_nothing(queue: OperatedQueue) -> None:
    await queue.announce()
    await queue.add_dead_letter(await queue.fields("bad-1"), "cents is not a number")
    chosen = await queue.add_dead_letter(await queue.fields("bad-2"), "no such column")
    for verb, done in (("replay", "replayed"), ("discard", "discarded")):
        status, output, _ = await queue.command("dead-letters", verb, "--reason", "column", "--dry-run")
        assert (status, output.splitlines()) == (
            0,
            [
                f"{chosen} request bad-2: would be {done}: no such column",
                f"1 dead letter would be {done}; nothing has been changed",
            ],
        )
    assert await queue.has_dead_letters(2)
    assert await queue.is_empty()


async def test_discard_deletes_only_what_is_selected(queue: OperatedQueue) -> None:
    await queue.announce()
    kept = await queue.add_dead_letter(await queue.fields("bad-1"), "cents is not a number")
    chosen = await queue.add_dead_letter(await queue.fields("bad-2"), "no such column")
    status, output, errors = await queue.command("dead-letters", "discard", str(chosen))
    assert (status, errors) == (0, "")
    assert output == f"{chosen} request bad-2: discarded, no caller waits for it\n1 dead letter discarded\n"
    assert [letter.letter_id for letter in await queue.selected()] == [kept]


async def test_replay_needs_no_database_and_moves_the_request_back_once(queue: OperatedQueue) -> None:
    await queue.announce()
    await queue.add_dead_letter(await queue.fields("bad-1"), "cents is not a number")
    [letter] = await queue.selected()
    assert await queue.letters.replay(letter)
    assert await queue.has_dead_letters(0)
    assert await queue.letters.replay(letter) is None  # it is gone
    [entry] = await queue.stream.entries(after="0", count=10, max_bytes=10_000)
    assert (entry.request_id, entry.fields[b"replayed"]) == (b"bad-1", b"1")


async def letter_of(queue: OperatedQueue, request_id: str, reply: ReplyAddress | None) -> LetterId:
    request = WriteRequest(request_id=request_id, table="orders", record={}, reply=reply)
    fields = await Codec(queue.client.data_converter).encode(request)
    return await queue.add_dead_letter(fields, "cents is not a number")


ENDED = ReplyAddress(workflow_id="ended", run_id="run", attempt="run")


async def test_replay_leaves_what_callers_were_told_is_not_written(queue: OperatedQueue) -> None:
    await queue.announce()
    without = await letter_of(queue, "without", None)
    forgotten = await letter_of(queue, "forgotten", replace(ENDED, mode=ConfirmBy.NONE))
    failed = await letter_of(queue, "failed", ENDED)
    ended = await letter_of(queue, "ended", replace(ENDED, awaits_replay=True))
    unknown = await queue.add_dead_letter({**await queue.fields("unknown"), b"reply": b"{"}, "no reply")
    status, output, errors = await queue.command("dead-letters", "replay", "--all")
    assert (status, errors) == (0, "")
    assert output.splitlines()[:-1] == [
        f"{without} request without: replayed",
        f"{forgotten} request forgotten: replayed",
        f"{failed} request failed: left, {LeftBecause.CALLER_FAILED.value}",
        f"{ended} request ended: left, {LeftBecause.CALLER_ENDED.value}",
        f"{unknown} request unknown: left, {LeftBecause.CALLER_UNKNOWN.value}",
        "2 dead letters replayed",
        f"1 dead letter left: {LeftBecause.CALLER_FAILED.value}",
        f"1 dead letter left: {LeftBecause.CALLER_ENDED.value}",
        f"1 dead letter left: {LeftBecause.CALLER_UNKNOWN.value}",
    ]
    assert "--also-failed" in output.splitlines()[-1]
    assert await queue.has_dead_letters(3)


async def test_replay_of_the_failed_is_explicit(queue: OperatedQueue) -> None:
    await queue.announce()
    failed = await letter_of(queue, "failed", ENDED)
    status, output, _ = await queue.command("dead-letters", "replay", str(failed))
    assert (status, "0 dead letters replayed\n" in output) == (1, True)
    status, output, _ = await queue.command("dead-letters", "replay", "--all", "--dry-run")
    assert (status, "would be left, its caller was told" in output) == (0, True)
    assert await queue.command("dead-letters", "replay", "--all", "--also-failed") == (
        0,
        f"{failed} request failed: replayed\n1 dead letter replayed\n",
        "",
    )


async def test_replay_of_all_skips_dead_letters_that_are_rejected_again(queue: OperatedQueue) -> None:
    async with queue.batching():
        await queue.append("bad-1", "bad-2")
        await eventually(lambda: queue.has_dead_letters(2))
        replayed = []
        async for letter in queue.letters.select(ALL):
            replayed.append(letter.dead.request_id)
            await queue.letters.replay(letter)
            await eventually(lambda: queue.has_dead_letters(2))
    assert replayed == ["bad-1", "bad-2"]


@asynccontextmanager
async def waiting_caller(queue: OperatedQueue, confirm_by: ConfirmBy) -> AsyncIterator[Any]:
    """A workflow that waits for an operator's decision on its rejected record; the batcher runs."""
    enqueue = EnqueueActivities(queue.redis)
    order = Order(
        queues=(queue.name,),
        request_id="bad-1",
        confirm_by=confirm_by,
        on_rejected=OnRejected.WAIT,
        batcher_task_queue=f"{queue.name}-batcher",
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(queue.batching())
        await stack.enter_async_context(caller(queue.client, queue.name, enqueue.enqueue_write))
        handle = await start(queue.client, queue.name, order)
        await eventually(lambda: queue.has_dead_letters(1))
        yield handle


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_waiting_caller_learns_that_its_replayed_request_is_written(
    queue: OperatedQueue, confirm_by: ConfirmBy
) -> None:
    async with waiting_caller(queue, confirm_by) as handle:
        queue.sink.repair()
        status, output, errors = await queue.command("dead-letters", "replay", "--all")
        assert (status, errors) == (0, "")
        assert output.endswith("1 dead letter replayed\n")
        [receipt] = await receipts_of(handle)
    assert (receipt.outcome, receipt.request_id) == (Outcome.WRITTEN, "bad-1")
    assert [row.request_id for row in queue.sink.rows] == ["bad-1"]


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_waiting_caller_learns_that_its_request_is_discarded(queue: OperatedQueue, confirm_by: ConfirmBy) -> None:
    async with waiting_caller(queue, confirm_by) as handle:
        status, output, errors = await queue.command("dead-letters", "discard", "--all")
        assert (status, errors) == (0, "")
        assert "request bad-1: discarded, its caller has been told\n" in output
        failure = await failure_of(handle)
    assert failure.type == "WriteRejected"
    assert failure.message.endswith("cents is not a number; its dead letter was discarded by an operator.")
    assert queue.sink.rows == []


async def test_discard_does_not_misinform_a_caller_whose_request_is_queued_again(queue: OperatedQueue) -> None:
    await queue.announce()
    reply = ReplyAddress(workflow_id="gone", run_id="run", attempt="run")
    fields = await Codec(queue.client.data_converter).encode(
        WriteRequest(request_id="bad-1", table="orders", record={}, reply=reply)
    )
    await queue.add_dead_letter(fields, "cents is not a number")
    sender = ReceiptSender(queue.client)
    [letter] = await queue.selected()
    await queue.stream.append(fields | {b"reply": _of_another_run(fields[b"reply"])}, max_backlog=10)
    assert await queue.letters.discard(letter, sender) is CallerNotice.QUEUED_AGAIN
    assert await queue.letters.discard(letter, sender) is None
    other = fields[b"reply"].replace(b'"attempt": "run"', b'"attempt": "other"')
    await queue.add_dead_letter(fields | {b"reply": other}, "cents is not a number")
    [letter] = await queue.selected()
    assert await queue.letters.discard(letter, sender) is CallerNotice.CALLER_ENDED


async def test_discard_tells_a_caller_only_with_its_last_dead_letter(queue: OperatedQueue) -> None:
    """The other dead letter may still be replayed and written."""
    await queue.announce()
    reply = ReplyAddress(workflow_id="gone", run_id="run", attempt="run")
    fields = await Codec(queue.client.data_converter).encode(
        WriteRequest(request_id="bad-1", table="orders", record={}, reply=reply)
    )
    await queue.add_dead_letter(fields, "cents is not a number")
    await queue.add_dead_letter(fields | {b"reply": _of_another_run(fields[b"reply"])}, "cents is not a number")
    sender = ReceiptSender(queue.client)
    first, second = await queue.selected()
    assert await queue.letters.discard(first, sender) is CallerNotice.OTHER_DEAD_LETTER
    assert await queue.letters.discard(second, sender) is CallerNotice.CALLER_ENDED


async def test_discard_tells_no_caller_that_wanted_no_receipt(queue: OperatedQueue) -> None:
    await queue.announce()
    reply = ReplyAddress(workflow_id="gone", run_id="run", attempt="run", mode=ConfirmBy.NONE)
    request = WriteRequest(request_id="bad-1", table="orders", record={}, reply=reply)
    await queue.add_dead_letter(await Codec(queue.client.data_converter).encode(request), "cents is not a number")
    [letter] = await queue.selected()
    assert await queue.letters.discard(letter, ReceiptSender(queue.client)) is CallerNotice.NO_CALLER_WAITS


def _of_another_run(reply: bytes) -> bytes:
    """Of the same attempt, submitted again after a reset."""
    changed = reply.replace(b'"run_id": "run"', b'"run_id": "later"')
    assert changed != reply
    return changed


async def test_replayed_request_that_the_database_had_rejected_is_written(
    queue: OperatedQueue, database_url: str
) -> None:
    def execute(statement: str) -> list[Any]:
        with (
            contextlib.closing(sqlite3.connect(database_url.removeprefix("sqlite+aiosqlite:///"))) as database,
            database,
        ):
            return database.execute(statement).fetchall()

    execute("CREATE TABLE orders (item TEXT)")
    execute("CREATE TRIGGER refuse BEFORE INSERT ON orders BEGIN SELECT RAISE(ABORT, 'closed for today'); END")
    async with SqlSink.open(database_url, tables=["orders"]) as sink, queue.batching(sink=sink):
        await queue.append("bad-1")
        await eventually(lambda: queue.has_dead_letters(1))
        execute("DROP TRIGGER refuse")
        status, output, errors = await queue.command("dead-letters", "replay", "--reason", "closed for today")
        assert (status, errors) == (0, "")
        assert output.endswith("request bad-1: replayed\n1 dead letter replayed\n")
        await eventually(queue.is_empty)
    assert execute("SELECT * FROM orders") == [("tea",)]
    assert (await queue.view()).dead_letters == 0


KEY = "a key of sixteen characters"


async def signed_fields(queue: OperatedQueue, request_id: str, *, key: str = KEY) -> Fields:
    asked = int(datetime.now(UTC).timestamp() * 1000)
    request = WriteRequest(request_id=request_id, table="orders", record={"item": "tea"}, asked_ms=asked)
    return Signer(key, queue.ref).signed(await queue.fields(request))


async def queued_entries(queue: OperatedQueue) -> list[StreamEntry]:
    return await queue.stream.entries(after="0", count=10, max_bytes=1_000_000)


async def objection_to(queue: OperatedQueue, entry: StreamEntry) -> str | None:
    """What a batcher with the key says to the entry."""
    return Signer(KEY, queue.ref).objection(entry.fields, await queue.stream.now_ms())


async def test_replay_signs_a_signed_request_anew_each_time(queue: OperatedQueue) -> None:
    await queue.announce()
    await queue.add_dead_letter(await signed_fields(queue, "bad-1"), "cents is not a number")
    queue.environment["WRITE_BATCHER_SIGNING_KEY"] = KEY
    for _ in range(2):
        status, output, errors = await queue.command("dead-letters", "replay", "--all")
        assert (status, output.splitlines()[-1:], errors) == (0, ["1 dead letter replayed"], "")
        [entry] = await queued_entries(queue)
        assert (entry.fields[b"replayed"], await objection_to(queue, entry)) == (b"1", None)
        await queue.stream.dead_letter(entry, "rejected", "still not a number", max_letters=10)


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["replay", "dry run"])
async def test_without_the_key_nothing_is_replayed_when_a_letter_is_signed(
    queue: OperatedQueue, options: tuple[str, ...]
) -> None:
    await queue.announce()
    await queue.add_dead_letter(await queue.fields("unsigned"), "cents is not a number")
    signed = await queue.add_dead_letter(await signed_fields(queue, "signed"), "cents is not a number")
    status, output, errors = await queue.command("dead-letters", "replay", "--all", *options)
    assert (status, output) == (2, "")
    assert f"Dead letter {signed} is signed" in errors
    assert "WRITE_BATCHER_SIGNING_KEY" in errors
    assert await queue.has_dead_letters(2)
    assert await queue.is_empty()


async def test_unsigned_letter_is_replayed_unsigned_also_with_a_key(queue: OperatedQueue) -> None:
    await queue.announce()
    await queue.add_dead_letter(await queue.fields("unsigned"), "cents is not a number")
    queue.environment["WRITE_BATCHER_SIGNING_KEY"] = KEY
    assert (await queue.command("dead-letters", "replay", "--all"))[0] == 0
    [entry] = await queued_entries(queue)
    assert b"sig" not in entry.fields


async def test_replay_does_not_sign_what_nobody_with_the_key_has_signed(queue: OperatedQueue) -> None:
    await queue.announce()
    forged = await signed_fields(queue, "forged", key="another key, a guess")
    await queue.add_dead_letter(forged, "The signature of the entry is wrong")
    queue.environment["WRITE_BATCHER_SIGNING_KEY"] = KEY
    assert (await queue.command("dead-letters", "replay", "--all"))[0] == 0
    [entry] = await queued_entries(queue)
    assert str(await objection_to(queue, entry)).startswith("The signature of the entry is wrong")


async def test_replay_of_a_huge_letter_signs_also_what_was_not_shown_of_it(
    queue: OperatedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.announce()
    request = WriteRequest(request_id="huge", table="orders", record={"item": "x" * 50_000}, asked_ms=1)
    signer = Signer(KEY, queue.ref)
    await queue.add_dead_letter(signer.signed(await queue.fields(request)), "too large")
    monkeypatch.setattr(dead_letters_module, "PAGE_BYTES", 20_000)
    [letter] = await queue.selected()
    assert b"payload" not in letter.dead.fields
    assert await QueueLetters(queue.redis, queue.ref, signer=signer).replay(letter)
    [entry] = await queued_entries(queue)
    assert signer.accepts(entry.fields)
