"""What is held on every database, for an outage or a table at fault; all else of the batch is written."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from tests.support.target_databases import QUEUE, Database, batch, order, outcomes, reason, record, statements
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Outcome
from write_batcher.sinks.sql import inserts
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.table_faults import MIN_ALIKE

WRITTEN, REJECTED, HELD = Outcome.WRITTEN, Outcome.REJECTED, None


async def test_missing_table_holds_its_records_alone(database: Database, sink: SqlSink) -> None:
    requests = [order(1), record("i", "items", item_id="secret", order_id=1), order(2)]
    database.execute("ALTER TABLE items RENAME TO hidden")

    answers = await sink.write(batch(*requests))

    assert outcomes(answers) == [WRITTEN, HELD, WRITTEN]
    assert "items" in reason(answers[1])
    assert "secret" not in reason(answers[1])
    assert database.ledger("request_id") == [("order-00001",), ("order-00002",)]

    database.execute("ALTER TABLE hidden RENAME TO items")
    assert outcomes(await sink.write(batch(*requests))) == [Outcome.DUPLICATE, WRITTEN, Outcome.DUPLICATE]


async def test_missing_column_holds_the_records_that_have_it(database: Database, sink: SqlSink) -> None:
    database.execute("ALTER TABLE orders DROP COLUMN note")

    answers = await sink.write(batch(order(1, note="a"), order(2)))

    assert outcomes(answers) == [HELD, WRITTEN]
    assert "note" in reason(answers[0])


async def test_held_request_that_its_caller_gave_up_is_withdrawn(database: Database, sink: SqlSink) -> None:
    database.execute("ALTER TABLE orders DROP COLUMN note")
    request = order(1, note="held")
    assert outcomes(await sink.write(batch(request))) == [HELD]

    assert (await sink.settle(request, queue=QUEUE)).outcome is Outcome.WITHDRAWN

    assert outcomes(await sink.write(batch(request))) == [Outcome.WITHDRAWN]


async def test_record_for_an_unknown_table_is_held_until_it_is_withdrawn(database: Database, sink: SqlSink) -> None:
    unknown = replace(order(1, request_id="unknown"), table="invoices")

    answers = await sink.write(batch(order(2), unknown, order(3)))

    assert outcomes(answers) == [WRITTEN, HELD, WRITTEN]
    assert "'invoices', only to orders, items" in reason(answers[1])
    assert database.count("write_batcher_ledger") == 2
    assert (await sink.settle(unknown, queue=QUEUE)).outcome is Outcome.WITHDRAWN
    assert outcomes(await sink.write(batch(unknown))) == [Outcome.WITHDRAWN]


async def test_what_follows_a_held_record_with_its_key_is_held_too(database: Database, sink: SqlSink) -> None:
    def tree(name: str, key: str) -> Any:
        return record(name, "stock", key=key, shop=key, sku=name)

    await sink.write(batch(tree("k-5", "k")))
    database.execute("ALTER TABLE nodes RENAME TO hidden")
    answers = await sink.write(
        batch(
            tree("k-1", "k"),
            record("k-2", "nodes", key="k", node_id=1),
            tree("k-3", "k"),
            tree("other", "other"),
            record("k-4", "orders", key="k", cents="does not fit"),
            tree("k-5", "k"),
        )
    )

    assert outcomes(answers) == [WRITTEN, HELD, HELD, WRITTEN, HELD, HELD]
    assert reason(answers[2]) == "It waits for request 'k-2', which has the same key and is held."
    assert database.ledger("request_id") == [("k-1",), ("k-5",), ("other",)]
    assert database.query("SELECT sku FROM stock ORDER BY sku") == [("k-1",), ("k-5",), ("other",)]


@pytest.mark.usefixtures("through_sqlalchemy")
async def test_lost_connection_makes_the_sink_unavailable(database: Database, sink: SqlSink) -> None:
    def cut(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO orders " in statement or "INSERT OR ABORT INTO orders " in statement:
            connection.connection.dbapi_connection.close()  # type: ignore[union-attr]

    event.listen(Engine, "before_cursor_execute", cut)
    try:
        with pytest.raises(SinkUnavailable):
            await sink.write(batch(order(1), order(2)))
    finally:
        event.remove(Engine, "before_cursor_execute", cut)

    assert database.count("write_batcher_ledger") == 0
    assert outcomes(await sink.write(batch(order(1), order(2)))) == [WRITTEN] * 2


async def test_ten_records_refused_alike_are_held_and_other_tables_go_on(database: Database, sink: SqlSink) -> None:
    bad = [order(number, cents=-1) for number in range(MIN_ALIKE)]

    answers = await sink.write(batch(*bad, record("n", "nodes", node_id=1)))

    assert outcomes(answers) == [HELD] * MIN_ALIKE + [WRITTEN]
    assert f"All {MIN_ALIKE} records for table 'orders' are refused alike" in reason(answers[0])
    assert database.ledger("request_id") == [("n",)]


async def test_fewer_records_refused_alike_are_rejected(sink: SqlSink) -> None:
    receipts = await sink.write(batch(*(order(number, cents=-1) for number in range(MIN_ALIKE - 1))))

    assert outcomes(receipts) == [REJECTED] * (MIN_ALIKE - 1)


async def test_records_refused_alike_are_rejected_if_their_table_accepts_one(sink: SqlSink) -> None:
    receipts = await sink.write(batch(*(order(number, cents=-1) for number in range(30)), order(30)))

    assert outcomes(receipts) == [REJECTED] * 30 + [WRITTEN]


async def test_ten_records_refused_alike_at_commit_are_held(database: Database, sink: SqlSink) -> None:
    requests = [record(f"a-{number}", "audits", name=f"{number}", order_id=404) for number in range(MIN_ALIKE)]

    answers = await sink.write(batch(order(1), *requests))

    assert outcomes(answers) == [WRITTEN] + [HELD] * MIN_ALIKE
    assert database.ledger("request_id") == [("order-00001",)]
    assert outcomes(await sink.write(batch(*requests[1:]))) == [REJECTED] * (MIN_ALIKE - 1)


async def test_key_waits_for_a_record_that_only_commit_refuses(database: Database, sink: SqlSink) -> None:
    bad = [record(f"bad-{n}", "audits", key=f"k-{n}", order_id=404) for n in range(MIN_ALIKE)]
    followers = [record(f"next-{n}", "nodes", key=f"k-{n}", node_id=n) for n in range(MIN_ALIKE)]

    held = await sink.write(batch(*bad, *followers, order(1)))
    rejected = await sink.write(batch(bad[0], followers[0], order(1)))

    assert outcomes(held) == [HELD] * 2 * MIN_ALIKE + [WRITTEN]
    assert outcomes(rejected) == [REJECTED, WRITTEN, Outcome.DUPLICATE]
    assert database.query("SELECT node_id FROM nodes") == [(0,)]


async def test_ten_records_whose_keys_are_taken_are_rejected(sink: SqlSink) -> None:
    await sink.write(batch(*(order(number, request_id=f"first-{number}") for number in range(MIN_ALIKE))))

    assert outcomes(await sink.write(batch(*map(order, range(MIN_ALIKE))))) == [REJECTED] * MIN_ALIKE


async def test_ten_records_that_do_not_fit_are_rejected(sink: SqlSink) -> None:
    receipts = await sink.write(batch(*(order(number, cents="x") for number in range(MIN_ALIKE))))

    assert outcomes(receipts) == [REJECTED] * MIN_ALIKE


async def test_broken_table_with_many_records_costs_few_statements(database: Database, sink: SqlSink) -> None:
    database.execute("DROP TABLE nodes")
    broken = [record(f"n-{number}", "nodes", node_id=number) for number in range(500)]

    with statements() as sent:
        answers = await sink.write(batch(*broken, order(1)))

    assert outcomes(answers) == [HELD] * 500 + [WRITTEN]
    assert len(sent) < 150


async def test_good_record_among_many_doubtful_ones_is_found_in_the_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.doubt_inserts("nodes", "new.node_id < 99")
    requests = [record(f"n-{number}", "nodes", node_id=number) for number in range(100)]
    async with database.sink() as sink:
        monkeypatch.setattr(inserts, "PROBES", 0)
        assert set(outcomes(await sink.write(batch(*requests)))) == {HELD}
        monkeypatch.setattr(inserts, "PROBES", 100)  # with 3 it takes several writes, each with other ones
        answers = await sink.write(batch(*requests))

    assert outcomes(answers) == [REJECTED] * 99 + [WRITTEN]
