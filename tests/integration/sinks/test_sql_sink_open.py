"""Opening a sink on every database: its tables, its ledger, its URL."""

import asyncio

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text

from tests.support.target_databases import TABLES, Database, batch, decided, order, outcomes, record
from write_batcher.errors import ConfigurationError
from write_batcher.models import Outcome, WriteReceipt
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.tables import TargetTable


async def test_sinks_that_open_a_new_database_at_once_all_succeed(database: Database) -> None:
    async def open_and_write(number: int) -> list[WriteReceipt]:
        async with database.sink(create=[Table("made", MetaData(), Column("id", Integer, primary_key=True))]) as sink:
            return decided(await sink.write(batch(order(number))))

    answers = await asyncio.gather(*(open_and_write(number) for number in range(8)))

    assert [outcomes(receipts) for receipts in answers] == [[Outcome.WRITTEN]] * 8
    assert database.count("made") == 0


async def test_sqlalchemy_table_is_used_as_it_is(database: Database) -> None:
    table = Table("orders", MetaData(), Column("order_id", Integer), Column("cents", Integer, default=7))
    async with database.sink([table]) as sink:
        receipts = await sink.write(batch(record("a", "orders", order_id=1), record("b", "orders", note="unknown")))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]
    assert database.query("SELECT order_id, cents FROM orders") == [(1, 7)]


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
async def test_open_refuses_a_table_that_is_missing_or_cannot_be_upserted(
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
        ("sqlite:///x.db", r"sqlite:///x\.db has no supported driver: use sqlite\+aiosqlite or postgresql\+psycopg"),
        ("mysql://me:hunter2@host/db", r"mysql://me:\*\*\*@host/db has no supported driver"),
        ("hunter2@host", "cannot be parsed: write it like sqlite"),
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
async def test_open_refuses_a_bad_url_without_showing_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        async with SqlSink.open(url, tables=TABLES):
            pass

    assert "hunter2" not in f"{refused.value} {refused.value.__cause__}"
