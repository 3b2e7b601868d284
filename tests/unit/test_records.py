import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Float,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.types import NullType

from write_batcher.errors import InvalidRequest
from write_batcher.sinks.sql.records import MAX_ERROR_CHARS, RecordCheck, printable

ORDERS = Table(
    "orders",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("cents", Integer, nullable=False),
    Column("name", Text),
    Column("state", Text, nullable=False, server_default="new"),
    Column("weight", Float),
    Column("price", Numeric(10, 2)),
    Column("paid", Boolean),
    Column("day", Date),
    Column("at", DateTime),
    Column("zoned_at", DateTime(timezone=True)),
    Column("customer", Uuid),
    Column("details", JSON),
    Column("label", LargeBinary),
    Column("anything", NullType),
    Column("doubled", Integer, Computed("cents * 2")),
    Column("number", Integer, Identity(always=True)),
)


@pytest.mark.parametrize(
    ("column", "given", "stored"),
    [
        ("name", "Zoë", "Zoë"),
        ("name", None, None),
        ("weight", 2, 2.0),
        ("price", "19.90", Decimal("19.90")),
        ("price", 19.9, Decimal("19.9")),
        ("paid", True, True),
        ("day", "2026-02-28", date(2026, 2, 28)),
        ("customer", "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        ("details", {"lines": [1, {"sku": "a"}]}, {"lines": [1, {"sku": "a"}]}),
        ("label", "aGVsbG8=", b"hello"),
        ("anything", 7, 7),
        ("cents", -(2**63), -(2**63)),
    ],
)
def test_value_becomes_the_type_of_its_column(column: str, given: Any, stored: Any) -> None:
    values = RecordCheck(ORDERS).values({"cents": 1, column: given})

    assert values[column] == stored
    assert type(values[column]) is type(stored)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2026-02-28T12:00:00", datetime(2026, 2, 28, 12)),
        ("2026-02-28T12:00:00+02:00", datetime(2026, 2, 28, 10)),
        ("2026-02-28 12:00:00Z", datetime(2026, 2, 28, 12)),
        ("20260228", datetime(2026, 2, 28)),
    ],
)
def test_timestamp_is_stored_in_utc(given: str, stored: datetime) -> None:
    values = RecordCheck(ORDERS).values({"cents": 1, "at": given, "zoned_at": given})

    assert values["at"] == stored
    assert values["zoned_at"] == stored.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("cents", "12"),
        ("cents", True),
        ("cents", 1.5),
        ("cents", None),
        ("cents", 2**63),
        ("cents", -(2**63) - 1),
        ("name", 5),
        ("name", "a\0b"),
        ("name", "\ud800"),
        ("weight", float("nan")),
        ("weight", float("-inf")),
        ("price", "NaN"),
        ("price", "twelve"),
        ("paid", 1),
        ("day", "2026-02-30"),
        ("at", "123 days"),
        ("at", 1700000000),
        ("at", "0001-01-01T00:00:00+14:00"),
        ("customer", "nobody"),
        ("label", "!"),
        ("details", {"deep": [{"er": float("inf")}]}),
        ("details", {"ke\0y": 1}),
        ("details", ["\udfff"]),
    ],
)
def test_value_that_does_not_fit_is_refused_with_table_and_column(column: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RecordCheck(ORDERS).values({"cents": 1, column: value})

    message = str(refused.value)
    assert "'orders'" in message
    assert repr(column) in message
    assert repr(value) in message
    assert "\0" not in message
    message.encode()


@pytest.mark.parametrize("column", ["colour", "doubled", "number"])
def test_unwritable_column_is_refused_with_the_writable_ones(column: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"no column '{column}' to write to, only id, cents, name"):
        RecordCheck(ORDERS).values({"cents": 1, column: 1})


def test_only_a_missing_column_without_default_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"column 'cents' \(INTEGER\) is required\.$"):
        RecordCheck(ORDERS).values({"name": "a"})


def test_empty_record_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'orders' is empty"):
        RecordCheck(ORDERS).values({})


def test_all_problems_of_a_record_are_named() -> None:
    with pytest.raises(InvalidRequest, match=r"'cents'.*'colour'.*'paid'"):
        RecordCheck(ORDERS).values({"colour": 1, "paid": "yes"})


@pytest.mark.parametrize("value", ["x" * 10_000, json.loads("[" * 500 + "]" * 500), 10**4000])
def test_large_value_does_not_make_a_large_error(value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RecordCheck(ORDERS).values({"cents": value, "paid": value, "weight": "heavy"})

    assert len(str(refused.value)) <= MAX_ERROR_CHARS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("a\0b\ud800", "a\\x00b\\ud800"),
        ("two\u2028lines\x85", "two\\u2028lines\\x85"),
        ("Zoë, заказ 🍵", "Zoë, заказ 🍵"),
    ],
)
def test_text_of_others_is_shown_in_one_line_without_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown
