"""Values of PostgreSQL's types: how they arrive, and which are rejected."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, TypeDecorator

from tests.support.target_databases import PostgresDatabase, batch, order, outcomes, reason, record
from write_batcher.models import Outcome
from write_batcher.sinks.sql.sink import SqlSink

TYPED = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN short AS text CHECK (length(value) < 5);
CREATE TABLE typed (
    number INTEGER NOT NULL,
    small SMALLINT CHECK (small <> 13),
    amount NUMERIC(10, 2),
    at TIMESTAMPTZ,
    at_utc TIMESTAMP,
    customer UUID,
    document JSONB,
    name VARCHAR(3),
    label TEXT,
    feeling mood,
    code short,
    address INET,
    sizes INTEGER[],
    bytes BYTEA
);
CREATE INDEX ON typed (label);
"""
ID = "12345678-1234-5678-1234-567812345678"


@pytest.fixture
async def sink(postgres: PostgresDatabase) -> AsyncIterator[SqlSink]:
    postgres.execute(TYPED)
    async with postgres.sink(["orders", "typed"]) as sink:
        yield sink


async def test_values_arrive_as_the_types_of_their_columns(postgres: PostgresDatabase, sink: SqlSink) -> None:
    receipts = await sink.write(
        batch(
            record(
                "a",
                "typed",
                number=1,
                small=2,
                amount="19.90",
                at="2026-02-28T12:00:00+02:00",
                at_utc="2026-02-28T12:00:00+02:00",
                customer=ID,
                document={"lines": [1, {"sku": "ü"}], "none": None},
                feeling="glad",
                code="abc",
                address="10.0.0.1/8",
                sizes=[1, None, 3],
                bytes="aGVsbG8=",
            ),
            record("b", "typed", number=2, document=None),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN] * 2
    columns = "small, amount, at, at_utc, customer, document, feeling, code, address::text, sizes, bytes"
    assert postgres.query(f"SELECT {columns} FROM typed WHERE number = 1") == [
        (
            2,
            Decimal("19.90"),
            datetime(2026, 2, 28, 10, tzinfo=UTC),
            datetime(2026, 2, 28, 10),
            UUID(ID),
            {"lines": [1, {"sku": "ü"}], "none": None},
            "glad",
            "abc",
            "10.0.0.1/8",
            [1, None, 3],
            b"hello",
        )
    ]
    assert postgres.query("SELECT number FROM typed WHERE document IS NULL") == [(2,)]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("number", 2**31, "integer out of range"),  # 22003
        ("small", 13, 'violates check constraint "typed_small_check"'),  # 23514
        ("amount", "123456789.00", "numeric field overflow"),  # 22003
        ("name", "long", "value too long"),  # 22001
        ("feeling", "blue", "invalid input value for enum mood"),  # 22P02
        ("code", "too long", 'violates check constraint "short_check"'),  # 23514
        ("address", "nowhere", "invalid input syntax for type inet"),  # 22P02
        ("address", {"not": "text"}, "cannot adapt type 'dict'"),  # by the driver
        ("sizes", [1, "two"], ""),  # by the driver
        ("label", "".join(map(chr, range(256, 6000))), "index row requires"),  # 54000
    ],
)
async def test_value_that_postgresql_refuses_is_rejected_alone(
    postgres: PostgresDatabase, sink: SqlSink, column: str, value: Any, words: str
) -> None:
    good = [record(f"good-{number}", "typed", number=number) for number in range(20)]
    bad = record("bad", "typed", **{"number": 99, column: value})

    receipts = await sink.write(batch(*good[:7], bad, *good[7:]))

    assert outcomes(receipts) == [Outcome.WRITTEN] * 7 + [Outcome.REJECTED] + [Outcome.WRITTEN] * 13
    assert words in reason(receipts[7])
    assert postgres.count("typed") == 20


async def test_reason_of_a_rejection_does_not_show_the_whole_row(postgres: PostgresDatabase, sink: SqlSink) -> None:
    postgres.execute("ALTER TABLE typed ALTER label SET NOT NULL")

    (receipt,) = await sink.write(batch(record("bad", "typed", number=1, name="me")))

    assert reason(receipt) == 'null value in column "label" of relation "typed" violates not-null constraint'


class Unsendable(TypeDecorator[str]):
    """A column type that turns a checked text into one that the driver cannot send."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value.replace("NUL", "\0").replace("SURROGATE", "\ud800") if value else value


@pytest.mark.parametrize("note", ["NUL", "SURROGATE"])
async def test_text_that_the_driver_cannot_send_is_rejected_alone(postgres: PostgresDatabase, note: str) -> None:
    table = Table(
        "orders", MetaData(), Column("order_id", Integer), Column("cents", Integer), Column("note", Unsendable)
    )
    async with postgres.sink([table]) as sink:
        receipts = await sink.write(batch(order(1, note="fine"), order(2, note=note), order(3, note="fine")))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert postgres.count("orders") == 2


async def test_upserts_whose_keys_only_postgresql_finds_equal_both_succeed(postgres: PostgresDatabase) -> None:
    postgres.execute("CREATE TABLE padded (code CHAR(5) PRIMARY KEY, number INTEGER)")
    async with postgres.sink(["padded:upsert"]) as sink:
        receipts = await sink.write(
            batch(
                record("1", "padded", code="a", number=1),
                record("2", "padded", code="b", number=2),
                record("3", "padded", code="a ", number=3),
            )
        )

    assert outcomes(receipts) == [Outcome.WRITTEN] * 3
    assert postgres.query("SELECT number FROM padded ORDER BY code") == [(3,), (2,)]
