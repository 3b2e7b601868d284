"""Settling: a caller that no longer waits and the drain never both win."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.support.target_databases import QUEUE, Database, batch, decided, held_after, order, outcomes
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Outcome, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.sql.sink import SqlSink

LEDGER_INSERT = "INTO write_batcher_ledger"
ORDERS_INSERT = "INTO orders"


@pytest.fixture
async def drain(database: Database) -> AsyncIterator[SqlSink]:
    async with database.sink() as sink:
        yield sink


@pytest.fixture
async def caller(database: Database, drain: SqlSink) -> AsyncIterator[SqlSink]:
    """To the database this is the sink of another process."""
    async with database.sink() as sink:
        yield sink


async def test_request_settled_first_is_never_written_for_its_attempt(database: Database, drain: SqlSink) -> None:
    withdrawn = WriteReceipt(
        request_id="order-00001",
        outcome=Outcome.WITHDRAWN,
        attempt="run-1",
        record_hash=with_hash(order(1)).record_hash,
    )

    assert await drain.settle(order(1), queue=QUEUE) == withdrawn
    assert await drain.settle(order(1), queue=QUEUE) == withdrawn
    assert await drain.write(batch(order(1))) == [replace(withdrawn, batch_id="batch-1")]
    assert database.count("orders") == 0
    assert database.ledger() == [("order-00001", "withdrawn", None, "run-1")]


async def test_another_attempt_may_write_a_withdrawn_request(database: Database, drain: SqlSink) -> None:
    await drain.settle(order(1), queue=QUEUE)

    assert outcomes(await drain.write(batch(order(1, attempt="run-2"), batch_id="batch-2"))) == [Outcome.WRITTEN]

    (stale,) = decided(await drain.write(batch(order(1), batch_id="batch-3")))
    assert (stale.outcome, stale.batch_id) == (Outcome.DUPLICATE, "batch-2")
    assert database.count("orders") == 1


async def test_settle_of_a_written_request_answers_written(database: Database, drain: SqlSink) -> None:
    await drain.write(batch(order(1)))

    settled = await drain.settle(order(1), queue=QUEUE)
    of_another_attempt = await drain.settle(order(1, attempt="run-2"), queue=QUEUE)

    assert settled == WriteReceipt(
        request_id="order-00001",
        outcome=Outcome.WRITTEN,
        batch_id="batch-1",
        attempt="run-1",
        record_hash=with_hash(order(1)).record_hash,
    )
    assert (of_another_attempt.outcome, of_another_attempt.attempt) == (Outcome.WRITTEN, "run-2")


async def test_settle_of_a_request_id_of_another_record_is_a_conflict(drain: SqlSink) -> None:
    await drain.write(batch(order(1)))

    receipt = await drain.settle(order(1, cents=999, attempt="run-2"), queue=QUEUE)

    assert receipt.outcome is Outcome.REJECTED
    assert "another record" in (receipt.error or "")


async def test_settle_of_a_rejected_request_answers_rejected(drain: SqlSink) -> None:
    rejected = decided(await drain.write(batch(order(1, cents=-1))))

    assert [await drain.settle(order(1, cents=-1), queue=QUEUE)] == [replace(rejected[0], batch_id=None)]


async def test_outcome_of_another_attempt_is_replaced_by_a_withdrawal(database: Database, drain: SqlSink) -> None:
    await drain.write(batch(order(1, cents=-1)))
    await drain.settle(order(2), queue=QUEUE)

    settled = [await drain.settle(order(number, attempt="run-2"), queue=QUEUE) for number in (1, 2)]

    assert outcomes(settled) == [Outcome.WITHDRAWN] * 2
    assert database.ledger() == [
        ("order-00001", "withdrawn", None, "run-2"),
        ("order-00002", "withdrawn", None, "run-2"),
    ]
    assert outcomes(await drain.write(batch(order(1, attempt="run-2")))) == [Outcome.WITHDRAWN]


async def test_request_that_the_ledger_cannot_hold_is_settled_as_rejected(drain: SqlSink) -> None:
    receipt = await drain.settle(order(1, request_id="a\0b"), queue=QUEUE)

    assert (receipt.outcome, receipt.attempt) == (Outcome.REJECTED, "run-1")


async def test_settle_waits_for_the_batch_that_is_being_written(drain: SqlSink, caller: SqlSink) -> None:
    async with held_after(ORDERS_INSERT) as transaction, asyncio.timeout(20), asyncio.TaskGroup() as group:
        write = group.create_task(drain.write(batch(order(1))))
        await transaction.reached.wait()
        settle = group.create_task(caller.settle(order(1), queue=QUEUE))
        await asyncio.wait([settle], timeout=0.2)
        assert not settle.done()
        transaction.released.set()

    assert outcomes(write.result()) == [Outcome.WRITTEN]
    assert settle.result().outcome is Outcome.WRITTEN


async def test_settle_withdraws_a_request_that_a_failed_batch_did_not_write(
    database: Database, drain: SqlSink, caller: SqlSink
) -> None:
    async with held_after(ORDERS_INSERT) as transaction, asyncio.timeout(20):
        write = asyncio.create_task(drain.write(batch(order(1))))
        await transaction.reached.wait()
        settle = asyncio.create_task(caller.settle(order(1), queue=QUEUE))
        await asyncio.wait([settle], timeout=0.2)
        transaction.failure = OSError("the drain's connection broke")
        transaction.released.set()
        with pytest.raises(SinkUnavailable, match="connection broke"):
            await write
        assert (await settle).outcome is Outcome.WITHDRAWN

    assert outcomes(await drain.write(batch(order(1)))) == [Outcome.WITHDRAWN]
    assert database.count("orders") == 0


async def test_batch_waits_for_a_settle_in_progress_and_respects_it(
    database: Database, drain: SqlSink, caller: SqlSink
) -> None:
    async with held_after(LEDGER_INSERT) as transaction, asyncio.timeout(20), asyncio.TaskGroup() as group:
        settle = group.create_task(caller.settle(order(1), queue=QUEUE))
        await transaction.reached.wait()
        write = group.create_task(drain.write(batch(order(0), order(1), order(2))))
        await asyncio.wait([write], timeout=0.2)
        assert not write.done()
        transaction.released.set()

    assert settle.result().outcome is Outcome.WITHDRAWN
    assert outcomes(write.result()) == [Outcome.WRITTEN, Outcome.WITHDRAWN, Outcome.WRITTEN]
    assert database.query("SELECT order_id FROM orders") == [(0,), (2,)]


async def test_settle_and_write_of_the_next_attempt_never_both_win(
    database: Database, drain: SqlSink, caller: SqlSink
) -> None:
    await drain.settle(order(1), queue=QUEUE)
    async with held_after("DO UPDATE") as transaction, asyncio.timeout(20), asyncio.TaskGroup() as group:
        write = group.create_task(drain.write(batch(order(1, attempt="run-2"))))
        await transaction.reached.wait()
        settle = group.create_task(caller.settle(order(1, attempt="run-2"), queue=QUEUE))
        await asyncio.wait([settle], timeout=0.2)
        assert not settle.done()
        transaction.released.set()

    assert outcomes(write.result()) == [Outcome.WRITTEN]
    assert settle.result().outcome is Outcome.WRITTEN
    assert database.count("orders") == 1


async def test_withdrawn_request_of_a_new_attempt_is_written_once_by_two_drains(
    database: Database, drain: SqlSink, caller: SqlSink
) -> None:
    await drain.write(batch(order(7)))
    await drain.settle(audit(attempt="run-1"), queue=QUEUE)
    async with held_after("INTO audits") as transaction, asyncio.timeout(20), asyncio.TaskGroup() as group:
        first = group.create_task(drain.write(batch(audit(attempt="run-2"))))
        await transaction.reached.wait()
        second = group.create_task(caller.write(batch(audit(attempt="run-2"), batch_id="batch-2")))
        await asyncio.wait([second], timeout=0.2)
        transaction.released.set()

    assert outcomes(first.result() + second.result()) == [Outcome.WRITTEN, Outcome.DUPLICATE]
    assert database.count("audits") == 1


def audit(*, attempt: str) -> WriteRequest:
    """For a table without a key that would hide a second row."""
    return replace(order(7, request_id="audit", attempt=attempt), table="audits", record={"order_id": 7})


async def test_random_settles_and_overlapping_batches_agree(
    database: Database, drain: SqlSink, caller: SqlSink
) -> None:
    dice = random.Random(7)
    requests = [order(number) for number in range(60)]

    async def settle(number: int) -> WriteReceipt:
        await asyncio.sleep(dice.uniform(0, 0.1))
        return await caller.settle(requests[number], queue=QUEUE)

    async with asyncio.timeout(30):
        settling = asyncio.gather(*map(settle, range(60)))
        first, second = await asyncio.gather(
            drain.write(batch(*requests[:40])), caller.write(batch(*reversed(requests[20:]), batch_id="batch-2"))
        )
        settled = await settling

    rows = {number for (number,) in database.query("SELECT order_id FROM orders")}
    for number, answer in enumerate(settled):
        assert answer.outcome is (Outcome.WRITTEN if number in rows else Outcome.WITHDRAWN)
    for receipt in decided([*first, *second]):
        assert (receipt.outcome is Outcome.WITHDRAWN) == (int(receipt.request_id[-5:]) not in rows)


async def test_withdrawals_of_two_workflows_with_one_request_id_both_stand(database: Database, drain: SqlSink) -> None:
    """Each workflow was told that its write is withdrawn, and may still have an entry in flight."""
    first = order(1, attempt="of-first")
    second = replace(first, reply=ReplyAddress(workflow_id="another", run_id="run", attempt="of-second"))
    assert (await drain.settle(first, queue=QUEUE)).outcome is Outcome.WITHDRAWN
    assert (await drain.settle(second, queue=QUEUE)).outcome is Outcome.WITHDRAWN
    assert outcomes(await drain.write(batch(first))) == [Outcome.WITHDRAWN]
    assert outcomes(await drain.write(batch(second, batch_id="batch-2"))) == [Outcome.WITHDRAWN]
    assert database.count("orders") == 0
    third = replace(first, reply=ReplyAddress(workflow_id="third", run_id="run", attempt="of-third"))
    assert outcomes(await drain.write(batch(third, batch_id="batch-3"))) == [Outcome.WRITTEN]


async def test_earlier_attempt_of_the_workflow_that_withdrew_stays_withdrawn(
    database: Database, drain: SqlSink
) -> None:
    """A workflow was reset while it waited: its first attempt never settled, and its entry arrives late."""
    before, after = (replace(order(1, attempt=name), asked_ms=asked) for name, asked in (("a", 1000), ("b", 2000)))
    assert (await drain.settle(after, queue=QUEUE)).outcome is Outcome.WITHDRAWN
    assert outcomes(await drain.write(batch(before))) == [Outcome.WITHDRAWN]
    assert database.count("orders") == 0


async def test_earlier_attempts_stay_withdrawn_when_two_workflows_withdrew(database: Database, drain: SqlSink) -> None:
    assert (await drain.settle(asked_by("first", "a1", 2000), queue=QUEUE)).outcome is Outcome.WITHDRAWN
    assert (await drain.settle(asked_by("second", "b1", 3000), queue=QUEUE)).outcome is Outcome.WITHDRAWN

    assert outcomes(await drain.write(batch(asked_by("first", "a0", 1000)))) == [Outcome.WITHDRAWN]
    assert outcomes(await drain.write(batch(asked_by("second", "b0", 2500)))) == [Outcome.WITHDRAWN]
    assert database.count("orders") == 0
    assert outcomes(await drain.write(batch(asked_by("first", "a2", 2500)))) == [Outcome.WRITTEN]


async def test_rejection_without_a_caller_leaves_a_withdrawal_standing(database: Database, drain: SqlSink) -> None:
    await drain.settle(order(1), queue=QUEUE)
    without_caller = replace(order(1, cents=-1), reply=None)
    assert outcomes(await drain.write(batch(without_caller))) == [Outcome.REJECTED]

    assert Outcome.WRITTEN not in outcomes(await drain.write(batch(order(1))))
    assert database.count("orders") == 0


def asked_by(workflow_id: str, attempt: str, asked_ms: int) -> WriteRequest:
    reply = ReplyAddress(workflow_id=workflow_id, run_id="run", attempt=attempt)
    return replace(order(1), reply=reply, asked_ms=asked_ms)


async def test_request_given_up_by_the_drain_is_rejected_until_replayed(database: Database, drain: SqlSink) -> None:
    receipt = await drain.settle(order(1), queue=QUEUE, refused="it ends the process")

    assert (receipt.outcome, receipt.error) == (Outcome.REJECTED, "it ends the process")
    assert outcomes(await drain.write(batch(order(1)))) == [Outcome.REJECTED]
    assert outcomes(await drain.write(batch(replace(order(1), replayed=True)))) == [Outcome.WRITTEN]
    assert database.count("orders") == 1
