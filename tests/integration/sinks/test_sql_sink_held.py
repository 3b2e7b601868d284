"""Batches that are held on every database: in an outage, or because their table is at fault."""

from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from tests.support.target_databases import Database, batch, order, outcomes, record
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Outcome
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.table_faults import MIN_UNIFORM_REFUSALS

LARGE = MIN_UNIFORM_REFUSALS  # requests in a batch that is held when all are refused with one code


async def test_missing_table_holds_the_batch_and_leaves_nothing_written(database: Database, sink: SqlSink) -> None:
    database.execute("ALTER TABLE items RENAME TO hidden")
    held = batch(order(1, note="secret"), record("i", "items", item_id="a", order_id=1))

    with pytest.raises(SinkUnavailable, match="items") as failure:
        await sink.write(held)

    assert "secret" not in f"{failure.value} {failure.value.__cause__}"
    assert database.count("orders") == 0
    assert database.count("write_batcher_ledger") == 0

    database.execute("ALTER TABLE hidden RENAME TO items")
    assert outcomes(await sink.write(held)) == [Outcome.WRITTEN] * 2


async def test_missing_column_holds_the_batch(database: Database, sink: SqlSink) -> None:
    database.execute("ALTER TABLE orders DROP COLUMN note")

    with pytest.raises(SinkUnavailable, match="note"):
        await sink.write(batch(order(1, note="a")))

    assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


async def test_missing_table_holds_the_batch_until_its_callers_give_up(database: Database, sink: SqlSink) -> None:
    requests = [record("a", "nodes", node_id=1), record("b", "nodes", node_id=2), order(1)]
    database.execute("DROP TABLE nodes")

    with pytest.raises(SinkUnavailable, match="Either nodes or a record for it is at fault"):
        await sink.write(batch(*requests))
    assert database.count("orders") == 0

    for request in requests[:2]:
        assert (await sink.settle(request)).outcome is Outcome.WITHDRAWN
    assert outcomes(await sink.write(batch(*requests))) == [Outcome.WITHDRAWN, Outcome.WITHDRAWN, Outcome.WRITTEN]


async def test_lost_connection_holds_the_batch(database: Database, sink: SqlSink) -> None:
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


async def test_large_batch_refused_with_one_code_is_held(database: Database, sink: SqlSink) -> None:
    with pytest.raises(SinkUnavailable, match=f"All {LARGE} records of a batch are refused alike"):
        await sink.write(batch(*(order(number, cents=-1) for number in range(LARGE))))

    assert database.count("write_batcher_ledger") == 0


async def test_smaller_batch_refused_with_one_code_is_rejected(sink: SqlSink) -> None:
    receipts = await sink.write(batch(*(order(number, cents=-1) for number in range(LARGE - 1))))

    assert outcomes(receipts) == [Outcome.REJECTED] * (LARGE - 1)


async def test_large_batch_refused_with_one_code_at_commit_is_held(database: Database, sink: SqlSink) -> None:
    requests = [record(f"a-{number}", "audits", name=f"{number}", order_id=404) for number in range(LARGE)]

    with pytest.raises(SinkUnavailable, match="refused alike"):
        await sink.write(batch(*requests))

    assert database.count("write_batcher_ledger") == 0
    assert outcomes(await sink.write(batch(*requests[1:]))) == [Outcome.REJECTED] * (LARGE - 1)


async def test_large_batch_whose_keys_are_all_taken_is_rejected(sink: SqlSink) -> None:
    await sink.write(batch(*(order(number, request_id=f"first-{number}") for number in range(LARGE))))

    assert outcomes(await sink.write(batch(*map(order, range(LARGE))))) == [Outcome.REJECTED] * LARGE


async def test_large_batch_whose_records_do_not_fit_is_rejected(sink: SqlSink) -> None:
    receipts = await sink.write(batch(*(order(number, cents="x") for number in range(LARGE))))

    assert outcomes(receipts) == [Outcome.REJECTED] * LARGE
