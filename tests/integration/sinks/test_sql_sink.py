"""What every database promises: the same suite against SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, event

from tests.support.target_databases import TABLES, Database, batch, order, outcomes, record, statements, verbs
from write_batcher.errors import ConfigurationError, SinkUnavailable
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.sql import ledger
from write_batcher.sinks.sql.sink import ALIKE, SqlSink
from write_batcher.sinks.sql.tables import TargetTable

WEEK = timedelta(days=7)


@pytest.fixture
async def sink(database: Database) -> AsyncIterator[SqlSink]:
    async with database.sink() as sink:
        yield sink


async def test_clean_batch_writes_rows_and_ledger(database: Database, sink: SqlSink) -> None:
    receipts = await sink.write(batch(order(2), order(1), record("i", "items", item_id="a", order_id=1)))

    assert receipts == [
        WriteReceipt(request_id="order-00002", outcome=Outcome.WRITTEN, batch_id="batch-1", attempt="run-1"),
        WriteReceipt(request_id="order-00001", outcome=Outcome.WRITTEN, batch_id="batch-1", attempt="run-1"),
        WriteReceipt(request_id="i", outcome=Outcome.WRITTEN, batch_id="batch-1"),
    ]
    assert database.query("SELECT order_id, cents, note FROM orders") == [(2, 100, None), (1, 100, None)]
    assert database.query("SELECT * FROM items") == [("a", 1)]
    assert database.ledger() == [
        ("i", "written", "batch-1", None, None),
        ("order-00001", "written", "batch-1", "run-1", None),
        ("order-00002", "written", "batch-1", "run-1", None),
    ]


async def test_redelivered_batch_is_a_duplicate_of_the_first(database: Database, sink: SqlSink) -> None:
    requests = [order(number) for number in range(10)]
    await sink.write(batch(*requests))

    receipts = await sink.write(batch(*requests, batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.DUPLICATE] * 10
    assert {receipt.batch_id for receipt in receipts} == {"batch-1"}
    assert database.count("orders") == 10


async def test_overlapping_batch_writes_only_what_is_new(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1), order(2)))

    receipts = await sink.write(batch(order(2), order(3), batch_id="batch-2"))

    assert [(receipt.outcome, receipt.batch_id) for receipt in receipts] == [
        (Outcome.DUPLICATE, "batch-1"),
        (Outcome.WRITTEN, "batch-2"),
    ]
    assert database.query("SELECT order_id FROM orders") == [(1,), (2,), (3,)]


async def test_request_id_of_another_record_is_rejected_as_a_conflict(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1)))
    kept = database.ledger("*")

    (receipt,) = await sink.write(batch(order(1, cents=999, attempt="run-2"), batch_id="batch-2"))

    assert (receipt.outcome, receipt.attempt) == (Outcome.REJECTED, "run-2")
    assert "'order-00001' was already used for another record" in (receipt.error or "")
    assert database.query("SELECT cents FROM orders") == [(100,)]
    assert database.ledger("*") == kept


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (record("bad", "invoices", cents=1), ["'invoices'", "orders, items, audits"]),
        (record("bad", "orders"), ["'orders'", "empty"]),
        (order(2, request_id="bad", colour="red"), ["'orders'", "'colour'"]),
        (order(2, request_id="bad", cents="12"), ["'orders'", "'cents' (INTEGER)", "'12'", "valid integer"]),
        (order(2, request_id="bad", weight=float("nan")), ["'orders'", "'weight'", "nan"]),
        (order(2, request_id="bad", note="a\0b"), ["'orders'", "'note'", "'a\\x00b'"]),
        (order(2, request_id="bad", note="\ud800"), ["'orders'", "'note'", "'\\ud800'"]),
        (order(2, request_id="bad", cents=2**63), ["'orders'", "'cents'", str(2**63)]),
        (record("bad", "orders", order_id=2), ["'orders'", "'cents' (INTEGER) is required"]),
        (record("bad", "stock", shop="a", pieces=2), ["'stock'", "'sku' (TEXT) is required"]),
    ],
)
async def test_record_that_fits_no_column_is_rejected_and_the_others_are_written(
    database: Database, sink: SqlSink, bad: WriteRequest, named: list[str]
) -> None:
    receipts = await sink.write(batch(order(1), bad, order(3)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert all(words in (receipts[1].error or "") for words in named), receipts[1].error
    assert database.query("SELECT order_id FROM orders") == [(1,), (3,)]
    assert database.ledger("outcome, batch_id, error")[0] == ("rejected", "batch-1", receipts[1].error)


@pytest.mark.parametrize("request_id", ["a\0b", "\ud800", "x" * 3000])
async def test_request_id_that_the_ledger_cannot_hold_is_rejected(
    database: Database, sink: SqlSink, request_id: str
) -> None:
    receipts = await sink.write(batch(order(1, request_id=request_id), order(2)))

    assert outcomes(receipts) == [Outcome.REJECTED, Outcome.WRITTEN]
    assert {receipt.attempt for receipt in receipts} == {"run-1"}
    assert database.query("SELECT order_id FROM orders") == [(2,)]


async def test_longest_request_id_is_kept(database: Database, sink: SqlSink) -> None:
    request = order(1, request_id="é" * (ledger.MAX_ID_BYTES // 2))

    assert outcomes(await sink.write(batch(request))) == [Outcome.WRITTEN]
    assert outcomes(await sink.write(batch(request))) == [Outcome.DUPLICATE]


async def test_batch_of_nothing_that_the_ledger_can_hold_is_answered(sink: SqlSink) -> None:
    assert outcomes(await sink.write(batch(order(1, request_id="\0")))) == [Outcome.REJECTED]
    assert await sink.write(batch()) == []


async def test_record_that_the_database_refuses_is_rejected_alone_with_its_reason(
    database: Database, sink: SqlSink
) -> None:
    await sink.write(batch(order(50, request_id="first")))

    receipts = await sink.write(batch(*(order(number) for number in range(100)), batch_id="batch-2"))

    (rejected,) = [receipt for receipt in receipts if receipt.outcome is not Outcome.WRITTEN]
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
    )
    assert database.query("SELECT count(*), count(DISTINCT order_id) FROM orders") == [(100, 100)]
    assert database.query("SELECT request_id FROM write_batcher_ledger WHERE outcome = 'rejected'") == [
        ("order-00050",)
    ]


@pytest.mark.parametrize("bad", [{3}, {0, 1, 98, 99}, set(range(0, 100, 2)), set(range(40, 70)), set(range(99))])
async def test_any_number_of_bad_records_are_rejected_and_all_others_written(
    database: Database, sink: SqlSink, bad: set[int]
) -> None:
    receipts = await sink.write(batch(*(order(number, cents=-1 if number in bad else 1) for number in range(100))))

    assert outcomes(receipts) == [Outcome.REJECTED if number in bad else Outcome.WRITTEN for number in range(100)]
    assert {number for (number,) in database.query("SELECT order_id FROM orders")} == set(range(100)) - bad


async def test_rejection_binds_the_run_that_got_it(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, request_id="blocker")))
    rejected = await sink.write(batch(order(1), batch_id="batch-2"))
    database.execute("DELETE FROM orders")

    again = await sink.write(batch(order(1), batch_id="batch-3"))

    assert outcomes(again) == [Outcome.REJECTED]
    assert again == rejected
    assert database.count("orders") == 0


async def test_another_run_may_write_what_was_rejected(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, request_id="blocker")))
    await sink.write(batch(order(1), batch_id="batch-2"))
    database.execute("DELETE FROM orders")

    receipts = await sink.write(batch(order(1, attempt="run-2"), batch_id="batch-3"))

    assert [(receipt.outcome, receipt.batch_id) for receipt in receipts] == [(Outcome.WRITTEN, "batch-3")]
    assert database.query("SELECT order_id FROM orders") == [(1,)]
    assert database.ledger()[1] == ("order-00001", "written", "batch-3", "run-2", None)


async def test_another_run_may_write_a_corrected_record(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, cents=-1)))

    receipts = await sink.write(batch(order(1, cents=5, attempt="run-2")))

    assert outcomes(receipts) == [Outcome.WRITTEN]
    assert database.query("SELECT cents FROM orders") == [(5,)]


async def test_another_run_that_is_rejected_again_gets_its_own_reason(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, cents=-1)))

    receipts = await sink.write(batch(order(1, cents="x", attempt="run-2"), batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.REJECTED]
    assert database.ledger("batch_id, attempt, error") == [("batch-2", "run-1\nrun-2", receipts[0].error)]


async def test_written_is_final_for_every_run(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1)))
    database.execute("DELETE FROM orders")

    receipts = await sink.write(batch(order(1, attempt="run-2"), batch_id="batch-2"))

    assert outcomes(receipts) == [Outcome.DUPLICATE]
    assert database.count("orders") == 0


async def test_forgotten_rejection_may_be_written_by_the_same_run(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, cents=-1), order(2)))

    assert await sink.forget_rejection("order-00001", "run-1", None) is True

    assert outcomes(await sink.write(batch(order(1, cents=3)))) == [Outcome.WRITTEN]
    assert database.count("orders") == 2


async def test_only_a_rejection_is_forgotten(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1)))
    await sink.settle(order(2))
    kept = database.ledger("*")

    for request_id in ("order-00001", "order-00002", "unknown"):
        assert await sink.forget_rejection(request_id, "run-1", None) is False

    assert database.ledger("*") == kept


async def test_forgotten_rejection_still_binds_the_other_attempts(database: Database, sink: SqlSink) -> None:
    bad = order(1, cents=-1)
    other = order(1, cents=-1, attempt="run-2")
    await sink.write(batch(bad))
    await sink.write(batch(other, batch_id="batch-2"))

    assert await sink.forget_rejection("order-00001", "run-1", None) is True

    assert database.ledger("outcome, attempt") == [("rejected", "run-2")]
    assert outcomes(await sink.write(batch(other, batch_id="batch-3"))) == [Outcome.REJECTED]
    assert outcomes(await sink.write(batch(order(1), batch_id="batch-4"))) == [Outcome.WRITTEN]


async def test_prune_deletes_what_is_older_in_bounded_steps(
    database: Database, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PRUNE_ROWS", 10)
    await sink.write(batch(*(order(number) for number in range(25))))
    database.age_ledger(days=8)
    await sink.write(batch(*(order(number) for number in range(25, 30))))

    with statements() as sent:
        assert await sink.prune(WEEK) == 25

    assert verbs(sent).count("DELETE") == 3
    assert database.count("write_batcher_ledger") == 5
    assert await sink.prune(WEEK) == 0


@pytest.mark.parametrize("wrong", ["database", "caller"])
async def test_prune_keeps_what_is_old_by_one_clock_alone(database: Database, sink: SqlSink, wrong: str) -> None:
    await sink.write(batch(order(1)))
    now = datetime.now(UTC)
    if wrong == "database":
        database.age_ledger(days=8)  # as if its clock had jumped ahead
        now -= timedelta(days=8)
    else:
        now += timedelta(days=8)

    assert await sink.prune(WEEK, now=now) == 0

    assert outcomes(await sink.write(batch(order(1), batch_id="batch-2"))) == [Outcome.DUPLICATE]


async def test_prune_finds_old_rows_by_an_index(database: Database, sink: SqlSink) -> None:
    with statements() as sent:
        await sink.prune(WEEK)
    (where,) = [statement.partition("WHERE")[2] for statement, _ in sent if statement.startswith("DELETE")]
    assert "written_at <" in where

    catalogue = {"sqlite": "SELECT name FROM sqlite_master", "postgresql": "SELECT indexname FROM pg_indexes"}
    assert ("ix_write_batcher_ledger_written_at",) in database.query(catalogue[database.kind])


async def test_table_that_is_gone_is_unavailable_and_leaves_neither_rows_nor_ledger(
    database: Database, sink: SqlSink
) -> None:
    database.execute("ALTER TABLE items RENAME TO hidden")
    written_together = batch(order(1, note="secret"), record("i", "items", item_id="a", order_id=1))

    with pytest.raises(SinkUnavailable, match="items") as failure:
        await sink.write(written_together)

    assert "secret" not in f"{failure.value} {failure.value.__cause__}"
    assert database.count("orders") == 0
    assert database.count("write_batcher_ledger") == 0

    database.execute("ALTER TABLE hidden RENAME TO items")
    assert outcomes(await sink.write(written_together)) == [Outcome.WRITTEN] * 2


async def test_column_that_is_gone_is_unavailable(database: Database, sink: SqlSink) -> None:
    database.execute("ALTER TABLE orders DROP COLUMN note")

    with pytest.raises(SinkUnavailable, match="note"):
        await sink.write(batch(order(1, note="a")))

    assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


async def test_connection_that_breaks_blames_no_record(database: Database, sink: SqlSink) -> None:
    def cut(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT") and " orders " in statement:
            connection.connection.dbapi_connection.close()  # type: ignore[union-attr]

    event.listen(Engine, "before_cursor_execute", cut)
    try:
        with pytest.raises(SinkUnavailable):
            await sink.write(batch(order(1), order(2)))
    finally:
        event.remove(Engine, "before_cursor_execute", cut)

    assert database.count("write_batcher_ledger") == 0
    assert outcomes(await sink.write(batch(order(1), order(2)))) == [Outcome.WRITTEN] * 2


async def test_cancelled_write_is_all_or_nothing(database: Database, sink: SqlSink) -> None:
    for number in range(40):  # each a little later than the one before, so that every statement is met
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

    assert sorted(set(outcomes(answers[0] + answers[1]))) == [Outcome.DUPLICATE, Outcome.WRITTEN]
    assert database.count("orders") == 50


async def test_sinks_that_open_a_new_database_at_once_all_open(database: Database) -> None:
    async def open_and_write(number: int) -> list[WriteReceipt]:
        async with database.sink(create=[Table("made", MetaData(), Column("id", Integer, primary_key=True))]) as sink:
            return await sink.write(batch(order(number)))

    answers = await asyncio.gather(*(open_and_write(number) for number in range(8)))

    assert [outcomes(receipts) for receipts in answers] == [[Outcome.WRITTEN]] * 8
    assert database.count("made") == 0


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
    assert "foreign key" in (receipts[3].error or "").lower()


async def test_row_may_refer_to_a_later_row_of_its_table_beside_a_bad_one(database: Database, sink: SqlSink) -> None:
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


async def test_null_in_a_json_column_is_null_in_the_database(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(order(1, details=None), order(2, details={"a": [1]})))

    assert database.query("SELECT order_id FROM orders WHERE details IS NULL") == [(1,)]


@pytest.mark.parametrize("number", [ALIKE - 1, ALIKE])
async def test_batch_that_is_refused_alike_is_held_when_it_is_large(
    database: Database, sink: SqlSink, number: int
) -> None:
    written_together = batch(*(order(each, cents=-1) for each in range(number)))

    if number < ALIKE:
        assert outcomes(await sink.write(written_together)) == [Outcome.REJECTED] * number
    else:
        with pytest.raises(SinkUnavailable, match=f"All {number} records of a batch are refused alike"):
            await sink.write(written_together)
        assert database.count("write_batcher_ledger") == 0


async def test_batch_that_is_refused_alike_at_commit_is_held_too(database: Database, sink: SqlSink) -> None:
    requests = [record(f"a-{number}", "audits", name=f"{number}", order_id=404) for number in range(ALIKE)]

    with pytest.raises(SinkUnavailable, match="refused alike"):
        await sink.write(batch(*requests))

    assert database.count("write_batcher_ledger") == 0
    assert outcomes(await sink.write(batch(*requests[1:]))) == [Outcome.REJECTED] * (ALIKE - 1)


async def test_batch_without_its_table_is_held_until_its_callers_give_up(database: Database, sink: SqlSink) -> None:
    requests = [record("a", "nodes", node_id=1), record("b", "nodes", node_id=2), order(1)]
    database.execute("DROP TABLE nodes")

    with pytest.raises(SinkUnavailable, match="Either nodes or a record for it is at fault"):
        await sink.write(batch(*requests))
    assert database.count("orders") == 0

    for request in requests[:2]:
        assert (await sink.settle(request)).outcome is Outcome.WITHDRAWN
    assert outcomes(await sink.write(batch(*requests))) == [Outcome.WITHDRAWN, Outcome.WITHDRAWN, Outcome.WRITTEN]


async def test_batch_whose_keys_are_all_taken_is_rejected(sink: SqlSink) -> None:
    await sink.write(batch(*(order(number, request_id=f"first-{number}") for number in range(ALIKE))))

    assert outcomes(await sink.write(batch(*map(order, range(ALIKE))))) == [Outcome.REJECTED] * ALIKE


async def test_batch_whose_records_fit_no_column_is_rejected(sink: SqlSink) -> None:
    receipts = await sink.write(batch(*(order(number, cents="x") for number in range(ALIKE))))

    assert outcomes(receipts) == [Outcome.REJECTED] * ALIKE


def stock(request_id: str, sku: str, **columns: Any) -> WriteRequest:
    return record(request_id, "stock", shop="here", sku=sku, **columns)


async def test_upsert_updates_only_the_columns_it_is_given(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(stock("a", "tea", pieces=1, note="green"), stock("b", "jam", pieces=2)))

    receipts = await sink.write(batch(stock("c", "tea", pieces=5), stock("d", "jam", note="red"), stock("e", "tea")))

    assert outcomes(receipts) == [Outcome.WRITTEN] * 3
    assert database.query("SELECT sku, pieces, note FROM stock ORDER BY sku") == [
        ("jam", 2, "red"),
        ("tea", 5, "green"),
    ]


async def test_later_upsert_of_a_batch_wins(database: Database, sink: SqlSink) -> None:
    receipts = await sink.write(
        batch(
            stock("1", "tea", pieces=1, note="first"),
            stock("2", "tea", pieces=2),
            stock("3", "jam", pieces=9),
            stock("4", "tea", pieces=3, note="third"),
            stock("5", "tea", pieces=4),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN] * 5
    assert database.query("SELECT sku, pieces, note FROM stock ORDER BY sku") == [("jam", 9, None), ("tea", 4, "third")]


async def test_redelivered_upsert_does_not_undo_a_later_one(database: Database, sink: SqlSink) -> None:
    await sink.write(batch(stock("1", "tea", pieces=1)))
    await sink.write(batch(stock("2", "tea", pieces=2)))

    assert outcomes(await sink.write(batch(stock("1", "tea", pieces=1)))) == [Outcome.DUPLICATE]
    assert database.query("SELECT pieces FROM stock") == [(2,)]


async def test_bad_upsert_is_rejected_alone_and_overwrites_nothing(database: Database, sink: SqlSink) -> None:
    receipts = await sink.write(
        batch(stock("1", "tea", pieces=1), stock("2", "tea", pieces=-1), stock("3", "jam", pieces=3))
    )

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert database.query("SELECT sku, pieces FROM stock ORDER BY sku") == [("jam", 3), ("tea", 1)]


async def test_clean_batch_of_100_costs_four_statements(database: Database, sink: SqlSink) -> None:
    with statements() as sent:
        await sink.write(batch(*(order(number) for number in range(100))))

    begin = ["BEGIN"] if database.kind == "sqlite" else []
    assert verbs(sent) == [*begin, "INSERT", "SAVEPOINT", "INSERT"]


@pytest.mark.parametrize("mixed", [False, True])
async def test_one_bad_record_in_100_costs_at_most_20_statements_more(
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

    assert max(costs.values()) <= 20, costs


async def test_more_rows_than_a_statement_may_bind_are_written(database: Database) -> None:
    columns = [f"c{number}" for number in range(50)]
    database.execute(f"CREATE TABLE wide ({', '.join(f'{column} INTEGER' for column in columns)})")
    requests = [record(f"wide-{number}", "wide", **dict.fromkeys(columns, number)) for number in range(1_000)]
    async with database.sink(["wide"]) as sink:
        with statements() as sent:
            assert set(outcomes(await sink.write(batch(*requests)))) == {Outcome.WRITTEN}

    assert max(len(parameters) for _, parameters in sent) <= ledger.MAX_BOUND_PARAMETERS
    assert database.count("wide") == 1_000


async def test_more_duplicates_than_a_statement_may_bind_are_answered(
    sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [order(number) for number in range(25)]
    await sink.write(batch(*requests))
    monkeypatch.setattr(ledger, "MAX_BOUND_PARAMETERS", 10)

    with statements() as sent:
        assert outcomes(await sink.write(batch(*requests))) == [Outcome.DUPLICATE] * 25

    assert [len(parameters) for statement, parameters in sent if statement.startswith("SELECT")] == [10, 10, 5]


async def test_table_of_the_program_is_used_as_it_is(database: Database) -> None:
    table = Table("orders", MetaData(), Column("order_id", Integer), Column("cents", Integer, default=7))
    async with database.sink([table]) as sink:
        receipts = await sink.write(batch(record("a", "orders", order_id=1), record("b", "orders", note="unknown")))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]
    assert database.query("SELECT order_id, cents FROM orders") == [(1, 7)]


async def test_table_of_the_program_is_upserted_when_it_says_so(database: Database) -> None:
    stock_table = Table(
        "stock",
        MetaData(),
        Column("shop", Text, primary_key=True),
        Column("sku", Text, key="article", primary_key=True),
        Column("pieces", Integer),
    )
    async with database.sink([TargetTable(table=stock_table, upsert=True)]) as sink:
        records = [record(name, "stock", shop="here", article="tea", pieces=n) for n, name in enumerate("ab", 1)]
        assert outcomes(await sink.write(batch(*records))) == [Outcome.WRITTEN] * 2

    assert database.query("SELECT sku, pieces FROM stock") == [("tea", 2)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("invoices", "Table 'invoices' is missing .*, which has audits, items"),
        ("invoices:upsert", "Table 'invoices' is missing"),
        (Table("invoices", MetaData(), Column("a", Text)), "Table 'invoices' is missing"),
        ("orders:upsert", "Table 'orders' has no primary key to upsert by"),
        (TargetTable(table=Table("orders", MetaData()), upsert=True), "Table 'orders' has no primary key"),
        ("orders:merge", "use 'orders' or 'orders:upsert'"),
    ],
)
async def test_open_refuses_a_table_that_cannot_be_written_as_wanted(
    database: Database, table: str | Table | TargetTable, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        async with database.sink([table]):
            pass

    with pytest.raises(Exception, match=r"write_batcher_ledger"):
        database.ledger()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite+aiosqlite:////no/such/folder/x.db", r"/no/such/folder/x\.db cannot be opened: there is no folder"),
        ("sqlite:///x.db", r"sqlite:///x\.db has no supported driver; use sqlite\+aiosqlite or postgresql\+psycopg"),
        ("mysql://me:hunter2@host/db", r"mysql://me:\*\*\*@host/db has no supported driver"),
        ("hunter2@host", "cannot be parsed; write it like sqlite"),
        ("postgresql+psycopg://me:a@b:hunter2@host/db", "a password's '@' as %40"),
        ("postgresql+psycopg://me:a@hunter2@host/db", "has an '@' inside"),
        ("postgresql+psycopg://me:a@hunter2/b@host/db", "has an '@' inside"),
        ("postgresql+psycopg://host:1/db?password=a@hunter2", "has an '@' inside"),
        ("mysql://me:a@hunter2@host/db", "has an '@' inside"),
        ("postgresql+psycopg://me:a%40hunter2@127.0.0.1:1/db", r"me:\*\*\*@127.0.0.1:1/db cannot be opened: conn"),
        ("sqlite+aiosqlite://", "'orders' is missing in database sqlite"),
        ("postgresql+psycopg://me:hunter2@127.0.0.1:1/db", r"me:\*\*\*@127.0.0.1:1/db cannot be opened: conn"),
    ],
)
async def test_open_refuses_an_address_without_showing_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        async with SqlSink.open(url, tables=TABLES):
            pass

    assert "hunter2" not in f"{refused.value} {refused.value.__cause__}"
