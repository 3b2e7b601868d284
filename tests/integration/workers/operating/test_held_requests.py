"""Listing what waits in a queue, and deciding about what is held."""

import json

import pytest

from tests.support.operated_queue import OperatedQueue
from tests.support.waiting import eventually
from write_batcher.activities.drain import hold
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.errors import OperationFailed
from write_batcher.models import Outcome
from write_batcher.workers.operating import given_orders
from write_batcher.workers.operating.given_orders import Orders

LOCKED = "the row is locked\x1b[2J"


async def is_held(queue: OperatedQueue, *request_ids: str) -> bool:
    return {mark.request_id for mark in (await queue.stream.held()).values()} == set(request_ids)


async def test_list_shows_what_waits_and_why_it_is_held(queue: OperatedQueue) -> None:
    queue.sink.held["locked"] = LOCKED
    async with queue.batching():
        await queue.append("locked", "good")
        await eventually(lambda: is_held(queue, "locked"))
        await eventually(lambda: len(queue.sink.rows) == 1)
        [held_id] = await queue.entry_ids()

        status, output, errors = await queue.command("queue", "list", "--held")
        assert (status, errors) == (0, "")
        [columns] = [line.split("\t") for line in output.splitlines()]
        assert (columns[0], columns[2], columns[3], columns[6]) == (
            str(held_id),
            "locked",
            "orders",
            "the row is locked\\x1b[2J",
        )
        status, output, _ = await queue.command("queue", "status")
        assert status == 0
        assert f"{queue.partition} held: 1\n" in output
        assert f"see `write-batcher queue list --held --queue {queue.name}`; the first: the row is locked" in output


async def test_list_of_a_paused_queue_shows_all_up_to_the_limit(queue: OperatedQueue) -> None:
    await queue.announce()
    await queue.append("first", "second", "third")
    await queue.append_foreign({b"what": b"is this"})
    await queue.stream.append_flush()
    status, output, errors = await queue.command("queue", "list", "--json")
    assert (status, errors) == (0, "")
    listed = [json.loads(line) for line in output.splitlines()]
    assert [(one["request_id"], one["table"], one["held_ms"]) for one in listed] == [
        ("first", "orders", None),
        ("second", "orders", None),
        ("third", "orders", None),
        ("", None, None),
    ]
    assert listed[0]["id"] == str((await queue.entry_ids())[0])
    status, output, errors = await queue.command("queue", "list", "--limit", "2")
    assert (status, output.count("\n"), errors) == (0, 2, "only the first 2 are shown: raise --limit to see more\n")


async def test_reject_tells_the_caller_and_keeps_a_dead_letter(queue: OperatedQueue) -> None:
    queue.sink.held["locked"] = LOCKED
    async with queue.batching():
        await queue.append("locked")
        await eventually(lambda: is_held(queue, "locked"))
        [held_id] = await queue.entry_ids()
        status, output, errors = await queue.command("queue", "reject", str(held_id), "--reason", "wrong shop")
    assert (status, errors) == (0, "")
    [letter] = await queue.selected()
    assert output == f"{held_id}: rejected; it is dead letter {letter.letter_id} now\n"
    assert "wrong shop" in letter.dead.reason
    assert [receipt.outcome for receipt in queue.sink.settled] == [Outcome.REJECTED]
    assert await queue.is_empty()


async def test_release_tries_at_once_and_says_what_came_of_it(
    queue: OperatedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "BACKOFF", Backoff(86_400.0, 86_400.0))  # no try of its own, however slow a command is
    queue.sink.held["locked"] = LOCKED
    async with queue.batching():
        await queue.append("locked")
        await eventually(lambda: is_held(queue, "locked"))
        [held_id] = await queue.entry_ids()
        status, output, errors = await queue.command("queue", "release", str(held_id))
        assert (status, output) == (1, "")
        assert errors == f"write-batcher: Request {held_id} is still held: the row is locked\\x1b[2J.\n"

        del queue.sink.held["locked"]
        status, output, errors = await queue.command("queue", "release", str(held_id))
        assert (status, output, errors) == (0, f"{held_id}: tried; it is decided and no longer queued\n", "")
    assert [row.request_id for row in queue.sink.rows] == ["locked"]


async def test_order_that_nobody_carries_out_is_reported_and_kept(
    queue: OperatedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_orders, "CARRIED_OUT_WITHIN", given_orders.LOOK_EVERY)
    await queue.announce()
    await queue.append("waits")
    [entry_id] = await queue.entry_ids()
    orders = Orders(queue.client, queue.redis, queue.name)
    with pytest.raises(
        OperationFailed, match=r"order to reject request .* not been carried out .* is not running\. Start"
    ):
        await orders.reject(entry_id, "wrong shop")
    async with queue.batching():
        await eventually(queue.is_empty)
    [letter] = await queue.selected()
    assert "wrong shop" in letter.dead.reason
