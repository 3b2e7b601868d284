"""Entries that cannot be decided now: they hold up nobody else, operators see them, and decide about them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from tests.support.drain_stage import NEVER, NEW_ATTEMPT, Stage
from tests.support.waiting import eventually
from write_batcher.activities.drain import hold
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.read import Reader
from write_batcher.models import ConfirmBy, Outcome, ReplyAddress, WriteRequest
from write_batcher.queue.marks import GivenOrder, HeldMark, Order
from write_batcher.queue.wire_form import Codec

ONE_DAY_S = 86_400.0


class Holds:
    """Waits for the marks of held entries."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def marks(self) -> dict[str, HeldMark]:
        """By request id."""
        return {mark.request_id: mark for mark in (await self._stage.queue.held()).values()}

    async def any(self) -> bool:
        return bool(await self.marks())

    async def are(self, **reasons: str) -> None:
        async def are_marked() -> bool:
            return {request_id: mark.reason for request_id, mark in (await self.marks()).items()} == reasons

        await eventually(are_marked)


@pytest.fixture
def holds(stage: Stage) -> Holds:
    return Holds(stage)


def hold_only(stage: Stage, *request_ids: str) -> None:
    stage.sink.hold = lambda request: "its row is locked" if request.request_id in request_ids else None


async def append_with_key(stage: Stage, key: str, *request_ids: str) -> None:
    for request_id in request_ids:
        reply = ReplyAddress(workflow_id=request_id, run_id="run", attempt="run")
        request = WriteRequest(request_id=request_id, key=key, table="orders", record={}, reply=reply)
        await stage.queue.append(await Codec(stage.temporal.data_converter).encode(request), max_backlog=100)


async def entry_id_of(stage: Stage, request_id: str) -> str:
    [entry_id] = [entry.entry_id for entry in await stage.pending() if entry.request_id == request_id.encode()]
    return entry_id


async def test_held_request_holds_up_only_those_with_its_key(
    stage: Stage, holds: Holds, caplog: pytest.LogCaptureFixture
) -> None:
    hold_only(stage, "k1")
    await append_with_key(stage, "k", "k1", "k2")
    await append_with_key(stage, "l", "l1", "l2")
    async with stage.draining() as running:
        await eventually(lambda: stage.sink.row_ids == ["l1", "l2"])
        await append_with_key(stage, "k", "k3")
        await holds.are(
            k1="its row is locked",
            k2="It waits behind another request with its key.",
            k3="It waits behind another request with its key.",
        )
        assert running.drain.details().held == 3
        assert (
            "requests are held (1, and what follows with their keys), the first because: its row is locked"
            in caplog.text
        )
        hold_only(stage)
        await eventually(stage.is_empty)
        assert running.drain.details().held == 0
    assert stage.sink.row_ids == ["l1", "l2", "k1", "k2", "k3"]
    assert await holds.marks() == {}


async def test_held_entry_is_pending_and_held_again_after_a_restart(stage: Stage, holds: Holds) -> None:
    hold_only(stage, "a")
    await stage.append("a", "b")
    async with stage.draining():
        await holds.are(a="its row is locked")
    first = (await holds.marks())["a"]
    assert await stage.counts() == (1, 1, 0)
    async with stage.draining() as running:
        await eventually(lambda: running.drain.details().held == 1)
        await holds.are(a="its row is locked")
    assert (await holds.marks())["a"] == first  # also since when it is held


async def test_operator_rejects_a_held_request_and_its_caller_is_told(
    stage: Stage, holds: Holds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "BACKOFF", Backoff(ONE_DAY_S, ONE_DAY_S))
    hold_only(stage, "k1")
    await append_with_key(stage, "k", "k1", "k2")
    async with stage.draining():
        await holds.are(k1="its row is locked", k2="It waits behind another request with its key.")
        await stage.queue.give_order(await entry_id_of(stage, "k1"), Order.REJECT, "the table is gone")
        await eventually(stage.is_empty)
    [receipt] = stage.temporal.receipts("k1")
    assert (receipt.outcome, receipt.error) == (Outcome.REJECTED, "Rejected by an operator: the table is gone")
    [letter] = await stage.dead_letters()
    assert (letter[b"id"], stage.sink.row_ids) == (b"k1", ["k2"])
    assert await stage.queue.orders() == {}


async def test_operator_rejects_a_request_that_waits_behind_another(stage: Stage, holds: Holds) -> None:
    hold_only(stage, "k1")
    await append_with_key(stage, "k", "k1", "k2")
    async with stage.draining():
        await holds.are(k1="its row is locked", k2="It waits behind another request with its key.")
        await stage.queue.give_order(await entry_id_of(stage, "k2"), Order.REJECT)
        await eventually(lambda: len(stage.temporal.receipts("k2")) == 1)
        await eventually(lambda: stage.holds(1))
    assert [letter[b"id"] for letter in await stage.dead_letters()] == [b"k2"]


async def test_rejected_request_that_was_written_already_is_confirmed_as_written(stage: Stage, holds: Holds) -> None:
    await stage.write_without_acknowledging("a")
    hold_only(stage, "a")
    async with stage.draining():
        await holds.are(a="its row is locked")
        await stage.queue.give_order(await entry_id_of(stage, "a"), Order.REJECT)
        await eventually(stage.is_empty)
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")] == [Outcome.WRITTEN]
    assert (await stage.statistics()).dead == 0


async def test_order_for_an_entry_in_the_open_batch_is_carried_out(stage: Stage) -> None:
    stage.max_wait = NEVER
    await stage.append("a", "b")
    async with stage.draining() as running:
        await eventually(lambda: running.drain.details().in_flight == 2)
        await stage.queue.give_order(await entry_id_of(stage, "a"), Order.REJECT)
        await eventually(lambda: len(running.drain._pen.refusals))
        await stage.queue.append_flush()
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["b"]
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")] == [Outcome.REJECTED]


async def test_order_given_while_no_drain_was_there_is_known_before_anything_is_written(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.append("a", "b")
    await stage.queue.give_order(await entry_id_of(stage, "a"), Order.REJECT)
    orders = stage.queue.orders

    async def orders_slowly() -> dict[str, GivenOrder]:
        await asyncio.sleep(0.3)  # longer than a drain takes that does not wait for the answer
        return await orders()

    monkeypatch.setattr(stage.queue, "orders", orders_slowly)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["b"]
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")] == [Outcome.REJECTED]


@pytest.mark.parametrize("order", Order)
async def test_order_for_an_entry_that_is_gone_is_withdrawn(stage: Stage, order: Order) -> None:
    await stage.append("a")
    entry_id = await entry_id_of(stage, "a")
    await stage.queue.give_order(entry_id, order)
    await stage.redis.xdel(stage.queue.stream_key, entry_id)

    async def is_withdrawn() -> bool:
        return not await stage.queue.orders()

    async with stage.draining():
        await eventually(is_withdrawn)


@pytest.mark.parametrize("released", ["k1", "k2"])
async def test_release_tries_the_first_of_the_key_at_once_and_is_then_withdrawn(
    stage: Stage, holds: Holds, monkeypatch: pytest.MonkeyPatch, released: str
) -> None:
    monkeypatch.setattr(hold, "BACKOFF", Backoff(ONE_DAY_S, ONE_DAY_S))
    hold_only(stage, "k1")
    await append_with_key(stage, "k", "k1", "k2")

    async def is_withdrawn() -> bool:
        return not await stage.queue.orders()

    async with stage.draining():
        await holds.are(k1="its row is locked", k2="It waits behind another request with its key.")
        stage.sink.hold = lambda request: "still locked" if request.request_id == "k1" else None
        await stage.queue.give_order(await entry_id_of(stage, released), Order.RELEASE)
        await eventually(is_withdrawn)
        assert (await holds.marks())["k1"].reason == "still locked"  # whoever waits for the order sees what came of it
        hold_only(stage)
        await stage.queue.give_order(await entry_id_of(stage, released), Order.RELEASE)
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["k1", "k2"]


async def test_full_pen_says_so_and_takes_no_more(stage: Stage, holds: Holds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "MAX_HELD", 2)
    has_room, stops_reading = Reader._has_room, asyncio.Event()

    def noted(reader: Reader) -> bool:
        room = has_room(reader)
        if not room:
            stops_reading.set()
        return room

    monkeypatch.setattr(Reader, "_has_room", noted)
    hold_only(stage, "a", "b")
    await stage.append("a", "b")
    async with stage.draining() as running:
        await holds.are(a="its row is locked", b="its row is locked")
        assert running.drain.details().holding == "2 entries are held, more are not taken"
        await eventually(stops_reading.is_set)  # not before: a read may have begun when there was room
        await stage.append("c")
        await eventually(lambda: len(stage.sink.batches) >= 5)  # tries go on
        assert stage.sink.row_ids == []
        hold_only(stage, "b")
        await eventually(lambda: sorted(stage.sink.row_ids) == ["a", "c"])
        assert running.drain.details().holding is None


async def test_held_entries_that_redis_has_lost_are_forgotten(stage: Stage, holds: Holds) -> None:
    hold_only(stage, "a")
    await stage.append("a")
    async with stage.draining() as running:
        await holds.are(a="its row is locked")
        await stage.redis.delete(*stage.queue.keys)
        await eventually(lambda: running.drain.details().held == 0)
        await stage.append("b")
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["b"]


async def test_unknown_version_is_held_until_a_batcher_knows_it(stage: Stage, holds: Holds) -> None:
    await stage.append_foreign("a", changes={b"v": b"2"})
    await stage.append("b")
    async with stage.draining():
        await eventually(lambda: stage.sink.row_ids == ["b"])
        await holds.are(a="The entry has version 2, this batcher knows 1.")
    assert await stage.counts() == (1, 1, 0)


class AwayKeyServer(PayloadCodec):
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        raise OSError("no route to host")


async def test_rejected_entry_that_nobody_can_decode_is_a_dead_letter_untold(stage: Stage, holds: Holds) -> None:
    stage.decode_with(AwayKeyServer())
    await stage.append("a")
    async with stage.draining():
        await eventually(holds.any)
        await stage.queue.give_order(await entry_id_of(stage, "a"), Order.REJECT)
        await eventually(stage.is_empty)
    assert (stage.sink.settled, stage.temporal.receipts("a")) == ([], [])
    assert (await stage.statistics()).dead == 1


async def test_reason_of_a_held_entry_steers_no_terminal(stage: Stage, holds: Holds) -> None:
    stage.sink.hold = lambda _: "locked\n\x1b[31mERROR all is lost" * 100
    await stage.append_for(replace(NEW_ATTEMPT, mode=ConfirmBy.NONE), "a")
    async with stage.draining():
        await eventually(holds.any)
    reason = (await holds.marks())["a"].reason
    assert reason.startswith("locked\\n\\x1b[31mERROR all is lost")
    assert reason.isprintable()
    assert len(reason) <= 500
