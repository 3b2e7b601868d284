"""Every database writes each request exactly once, in few statements."""

import asyncio

import pytest

from tests.support.target_databases import QUEUE, Database, batch, decided, order, outcomes, record, statements, verbs
from write_batcher.models import Outcome, WriteReceipt
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.sql import ledger
from write_batcher.sinks.sql.sink import SqlSink


async def test_clean_batch_writes_rows_and_ledger(database: Database, sink: SqlSink) -> None:
    requests = [order(2), order(1), record("i", "items", item_id="a", order_id=1)]

    receipts = await sink.write(batch(*requests))

    assert receipts == [
        WriteReceipt(
            request_id=request.request_id,
            outcome=Outcome.WRITTEN,
            batch_id="batch-1",
            attempt=request.attempt,
            record_hash=with_hash(request).record_hash,
        )
        for request in requests
    ]
    assert database.query("SELECT order_id, cents, note FROM orders") == [(2, 100, None), (1, 100, None)]
    assert database.query("SELECT * FROM items") == [("a", 1)]
    assert database.ledger() == [
        ("i", "written", "batch-1", None),
        ("order-00001", "written", "batch-1", "run-1"),
        ("order-00002", "written", "batch-1", "run-1"),
    ]
    assert database.query("SELECT DISTINCT queue FROM write_batcher_ledger") == [(QUEUE,)]


async def test_redelivered_batch_is_a_duplicate_of_the_first(database: Database, sink: SqlSink) -> None:
    requests = [order(number) for number in range(10)]
    await sink.write(batch(*requests))

    receipts = await sink.write(batch(*requests, batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.DUPLICATE] * 10
    assert {receipt.batch_id for receipt in decided(receipts)} == {"batch-1"}
    assert database.count("orders") == 10


async def test_overlapping_batch_writes_only_new_requests(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1), order(2)))

    receipts = await sink.write(batch(order(2), order(3), batch_id="batch-2"))

    assert [(receipt.outcome, receipt.batch_id) for receipt in decided(receipts)] == [
        (Outcome.DUPLICATE, "batch-1"),
        (Outcome.WRITTEN, "batch-2"),
    ]
    assert database.query("SELECT order_id FROM orders") == [(1,), (2,), (3,)]


async def test_request_id_of_another_record_is_rejected_as_a_conflict(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1)))
    kept = database.ledger("*")

    (receipt,) = decided(await sink.write(batch(order(1, cents=999, attempt="run-2"), batch_id="batch-2")))

    assert (receipt.outcome, receipt.attempt) == (Outcome.REJECTED, "run-2")
    assert "'order-00001' was already used for another record" in (receipt.error or "")
    assert database.query("SELECT cents FROM orders") == [(100,)]
    assert database.ledger("*") == kept


async def test_written_request_is_final_for_every_attempt(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1)))
    database.execute("DELETE FROM orders")

    receipts = await sink.write(batch(order(1, attempt="run-2"), batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.DUPLICATE]
    assert database.count("orders") == 0


async def test_cancelled_write_is_all_or_nothing(database: Database, sink: SqlSink) -> None:
    for number in range(40):  # each a little later, so that every statement is hit
        write = asyncio.create_task(sink.write(batch(order(number))))
        await asyncio.sleep(number / 5_000)
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)
        assert database.count("orders") == database.count("write_batcher_ledger")

    receipts = await sink.write(batch(*(order(number) for number in range(40))))

    assert set(outcomes(receipts)) <= {Outcome.WRITTEN, Outcome.DUPLICATE}
    assert database.count("orders") == 40


async def test_two_sinks_write_the_same_batch_once(database: Database, sink: SqlSink) -> None:
    requests = [order(number) for number in range(50)]
    async with database.sink() as other:
        answers = await asyncio.gather(sink.write(batch(*requests)), other.write(batch(*requests, batch_id="batch-2")))

    assert set(outcomes(answers[0] + answers[1])) == {Outcome.DUPLICATE, Outcome.WRITTEN}
    assert database.count("orders") == 50


async def test_null_in_a_json_column_is_null_in_the_database(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, details=None), order(2, details={"a": [1]})))

    assert database.query("SELECT order_id FROM orders WHERE details IS NULL") == [(1,)]


@pytest.mark.usefixtures("through_sqlalchemy")
async def test_clean_batch_of_100_costs_three_statements(database: Database, sink: SqlSink) -> None:
    with statements() as sent:
        await sink.write(batch(*(order(number) for number in range(100))))

    begin = {"sqlite": "BEGIN", "postgresql": "SELECT"}[database.kind]  # SELECT sets the transaction's limits
    assert verbs(sent) == [begin, "INSERT", "INSERT"]


@pytest.mark.parametrize("mixed", [False, True])
async def test_one_bad_record_in_100_costs_at_most_25_statements_more(
    database: Database, sink: SqlSink, mixed: bool
) -> None:
    async def cost(bad: int | None, run: int) -> int:
        requests = [
            record(f"{run}-{number}", "nodes", node_id=run * 100 + number)
            if mixed and number % 2
            else order(
                run * 100 + number,
                request_id=f"{run}-{number}",
                cents=-1 if number == bad else 1,
            )
            for number in range(100)
        ]
        with statements() as sent:
            receipts = await sink.write(batch(*requests))
        assert outcomes(receipts).count(Outcome.REJECTED) == (bad is not None)
        return len(sent)

    clean = await cost(None, 0)
    costs = {bad: await cost(bad, bad + 1) - clean for bad in (0, 2, 30, 48, 50, 62, 74, 96, 98)}

    assert max(costs.values()) <= 25, costs


@pytest.mark.usefixtures("through_sqlalchemy")
async def test_more_rows_than_one_statement_may_bind_are_written(database: Database) -> None:
    columns = [f"c{number}" for number in range(50)]
    database.execute(f"CREATE TABLE wide ({', '.join(f'{column} INTEGER' for column in columns)})")
    requests = [record(f"wide-{number}", "wide", key="", **dict.fromkeys(columns, number)) for number in range(1_000)]
    async with database.sink(["wide"]) as sink:
        with statements() as sent:
            assert set(outcomes(await sink.write(batch(*requests)))) == {Outcome.WRITTEN}

    assert max(len(parameters) for _, parameters in sent) <= ledger.MAX_BOUND_PARAMETERS
    assert database.count("wide") == 1_000


async def test_more_duplicates_than_one_statement_may_bind_are_answered(
    sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [order(number) for number in range(25)]
    await sink.write(batch(*requests))
    monkeypatch.setattr(ledger, "MAX_BOUND_PARAMETERS", 11)  # one is the queue

    with statements() as sent:
        assert outcomes(await sink.write(batch(*requests))) == [Outcome.DUPLICATE] * 25

    assert [len(parameters) for statement, parameters in sent if "FROM write_batcher_ledger" in statement] == [
        11,
        11,
        6,
    ]
