"""Upserts on every database."""

from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, Text

from tests.support.target_databases import Database, batch, outcomes, record
from write_batcher.models import Outcome, WriteRequest
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.tables import TargetTable


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


async def test_sqlalchemy_table_is_upserted_when_it_is_asked_for(database: Database) -> None:
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
