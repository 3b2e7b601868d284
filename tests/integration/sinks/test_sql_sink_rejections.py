"""What every database rejects, for which reason, and which attempts a rejection binds."""

from dataclasses import replace

import pytest

from tests.support.target_databases import QUEUE, Database, batch, decided, order, outcomes, reason, record
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.sql import ledger_row
from write_batcher.sinks.sql.sink import SqlSink


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (record("bad", "orders"), ["'orders'", "empty"]),
        (order(2, request_id="bad", colour="red"), ["'orders'", "'colour'"]),
        (order(2, request_id="bad", cents="12"), ["'orders'", "'cents' (INTEGER)", "'12'", "valid integer"]),
        (order(2, request_id="bad", note="a\0b"), ["'orders'", "'note'", "a\\x00b"]),
        (order(2, request_id="bad", cents=2**63), ["'orders'", "'cents'", str(2**63)]),
        (record("bad", "orders", order_id=2), ["'orders'", "'cents' (INTEGER) is required"]),
        (record("bad", "stock", shop="a", pieces=2), ["'stock'", "'sku' (TEXT) is required"]),
    ],
)
async def test_record_that_does_not_fit_its_table_is_rejected_alone(
    database: Database, sink: SqlSink, bad: WriteRequest, named: list[str]
) -> None:
    receipts = await sink.write(batch(order(1), bad, order(3)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert all(words in reason(receipts[1]) for words in named), reason(receipts[1])
    assert database.query("SELECT order_id FROM orders") == [(1,), (3,)]
    assert database.ledger("outcome, batch_id")[0] == ("rejected", "batch-1")


@pytest.mark.parametrize("request_id", ["a\0b", "\ud800", "x" * 3000])
async def test_request_id_that_the_ledger_cannot_hold_is_rejected(
    database: Database, sink: SqlSink, request_id: str
) -> None:
    receipts = await sink.write(batch(order(1, request_id=request_id), order(2)))

    assert outcomes(receipts) == [Outcome.REJECTED, Outcome.WRITTEN]
    assert {receipt.attempt for receipt in decided(receipts)} == {"run-1"}
    assert database.query("SELECT order_id FROM orders") == [(2,)]


async def test_longest_request_id_is_accepted(database: Database, sink: SqlSink) -> None:
    request = order(1, request_id="é" * ((ledger_row.MAX_ID_BYTES - len(QUEUE)) // 2))

    assert outcomes(await sink.write(batch(request))) == [Outcome.WRITTEN]
    assert outcomes(await sink.write(batch(request))) == [Outcome.DUPLICATE]


async def test_batch_without_any_valid_request_is_answered(sink: SqlSink) -> None:
    assert outcomes(await sink.write(batch(order(1, request_id="\0")))) == [Outcome.REJECTED]
    assert await sink.write(batch()) == []


async def test_record_that_the_database_refuses_is_rejected_with_its_reason(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(50, request_id="first")))

    receipts = await sink.write(batch(*(order(number) for number in range(100)), batch_id="batch-2"))

    (rejected,) = [receipt for receipt in decided(receipts) if receipt.outcome is not Outcome.WRITTEN]
    assert rejected == WriteReceipt(
        request_id="order-00050",
        outcome=Outcome.REJECTED,
        batch_id="batch-2",
        error={
            "sqlite": "UNIQUE constraint failed: orders.order_id",
            "postgresql": 'duplicate key value violates unique constraint "orders_order_id_key": '
            "Key (order_id)=(50) already exists.",
        }[database.kind],
        attempt="run-1",
        record_hash=with_hash(order(50)).record_hash,
    )
    assert database.query("SELECT count(*), count(DISTINCT order_id) FROM orders") == [(100, 100)]
    assert database.query("SELECT request_id FROM write_batcher_ledger WHERE outcome = 'rejected'") == [
        ("order-00050",)
    ]


@pytest.mark.parametrize("bad", [{3}, {0, 1, 98, 99}, set(range(0, 100, 2)), set(range(40, 70)), set(range(99))])
async def test_any_number_of_bad_records_are_rejected_and_the_others_written(
    database: Database, sink: SqlSink, bad: set[int]
) -> None:
    receipts = await sink.write(batch(*(order(number, cents=-1 if number in bad else 1) for number in range(100))))

    assert outcomes(receipts) == [Outcome.REJECTED if number in bad else Outcome.WRITTEN for number in range(100)]
    assert {number for (number,) in database.query("SELECT order_id FROM orders")} == set(range(100)) - bad


async def test_row_may_refer_to_a_row_of_the_same_batch(sink: SqlSink) -> None:
    await sink.write(batch(order(1)))

    receipts = await sink.write(
        batch(
            record("a", "items", item_id="a", order_id=1),
            order(2),
            record("b", "items", item_id="b", order_id=2),
            record("c", "items", item_id="c", order_id=404),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.WRITTEN, Outcome.WRITTEN, Outcome.REJECTED]
    assert "foreign key" in reason(receipts[3]).lower()


async def test_row_may_refer_to_a_later_row_in_a_batch_with_a_bad_one(database: Database, sink: SqlSink) -> None:
    receipts = await sink.write(
        batch(
            record("child", "nodes", node_id=2, parent_id=3),
            record("bad", "nodes", node_id=1, parent_id=404),
            record("parent", "nodes", node_id=3),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]


async def test_deferred_constraint_rejects_only_the_record_that_breaks_it(database: Database, sink: SqlSink) -> None:
    receipts = await sink.write(batch(order(1), record("a", "audits", order_id=404), record("b", "audits", order_id=1)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert database.query("SELECT order_id FROM audits") == [(1,)]


async def test_rejection_binds_the_attempt_that_got_it(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, request_id="blocker")))
    rejected = decided(await sink.write(batch(order(1), batch_id="batch-2")))
    database.execute("DELETE FROM orders")

    again = await sink.write(batch(order(1), batch_id="batch-3"))

    assert again == [replace(receipt, batch_id="batch-3") for receipt in rejected]
    assert database.count("orders") == 0


async def test_another_attempt_may_write_a_rejected_request(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, request_id="blocker")))
    await sink.write(batch(order(1), batch_id="batch-2"))
    database.execute("DELETE FROM orders")

    receipts = await sink.write(batch(order(1, attempt="run-2"), batch_id="batch-3"))

    assert [(receipt.outcome, receipt.batch_id) for receipt in decided(receipts)] == [(Outcome.WRITTEN, "batch-3")]
    assert database.query("SELECT order_id FROM orders") == [(1,)]
    assert database.ledger()[1] == ("order-00001", "written", "batch-3", "run-2")


async def test_another_attempt_may_write_a_corrected_record(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, cents=-1)))

    receipts = await sink.write(batch(order(1, cents=5, attempt="run-2")))

    assert outcomes(receipts) == [Outcome.WRITTEN]
    assert database.query("SELECT cents FROM orders") == [(5,)]


async def test_another_attempt_that_is_rejected_gets_its_own_reason(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, cents=-1)))

    receipts = await sink.write(batch(order(1, cents="x", attempt="run-2"), batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.REJECTED]
    assert database.ledger("batch_id, attempt") == [("batch-2", "run-2")]
