"""The records that are written: their tables, and how to make the record with a given number."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Row = tuple[Any, ...]

TAKEN_ID = "order-taken"
"""The primary key of a row that is there before a drain of bad records begins."""

NOTE = "Leave at the door if nobody answers, ring twice, and call the number of the order before coming up"
CITIES = ("Lisbon", "Turin", "Aarhus", "Brno", "Ghent", "Tartu", "Graz")
FIRST_ORDER_AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordShape:
    """A table with its records."""

    table: str
    columns: Mapping[str, Mapping[str, str]]
    """The type of each column, by the kind of database and its name. The first is the primary key `id`, and there is a
    text `note`.
    """
    record: Callable[[int], dict[str, Any]]
    """The record with this number, as JSON values."""
    json_columns: frozenset[str] = frozenset()

    def names(self) -> tuple[str, ...]:
        return tuple(self.columns["sqlite"])

    def ddl(self, kind: str) -> str:
        """Return the statement that creates the table in a `sqlite` or `postgresql` database."""
        columns = ", ".join(
            f"{name} {column_type} {'PRIMARY KEY' if name == 'id' else 'NOT NULL'}"
            for name, column_type in self.columns[kind].items()
        )
        return f"CREATE TABLE {self.table} ({columns})"

    def row(self, record: Mapping[str, Any]) -> Row:
        """Return the values of a record in the order of the columns, as every driver takes them: JSON as text."""
        if not self.json_columns:
            return tuple(map(record.__getitem__, self.names()))
        return tuple(
            json.dumps(record[name]) if name in self.json_columns else record[name] for name in self.columns["sqlite"]
        )


def order_id(number: int) -> str:
    """Return the primary key of the record with this number."""
    return f"order-{number:08d}"


def _note(number: int) -> str:
    return f"{NOTE}, no. {number:08d}"


def _plain_record(number: int) -> dict[str, Any]:
    return {"id": order_id(number), "customer": f"customer-{number % 9973:05d}@shop", "note": _note(number)}


def _wide_record(number: int) -> dict[str, Any]:
    return {
        "id": order_id(number),
        "customer": str(uuid.UUID(int=number * 0x9E3779B97F4A7C15)),
        "amount": f"{number % 90_000 + 1_000}.{number % 100:02d}",
        "placed_at": (FIRST_ORDER_AT + timedelta(seconds=number, microseconds=number % 1_000_000)).isoformat(),
        "details": {"gift": number % 3 == 0, "lines": [{"sku": f"sku-{number % 701}", "count": number % 7 + 1}]},
        "quantity": number % 700 + 40_000,
        "priority": number % 5 + 40_000,
        "weight_mg": number % 10_000 + 5_000_000_000,
        "city": CITIES[number % len(CITIES)],
        "note": _note(number),
    }


NOTE_CHARS = len(_note(0))
"""Of the column `note`, in every record."""

PLAIN = RecordShape(
    table="bench_plain",
    columns={kind: {"id": "TEXT", "customer": "TEXT", "note": "TEXT"} for kind in ("sqlite", "postgresql")},
    record=_plain_record,
)
WIDE = RecordShape(
    table="bench_wide",
    columns={
        "sqlite": {
            "id": "TEXT",
            "customer": "TEXT",
            "amount": "NUMERIC(12, 2)",
            "placed_at": "TIMESTAMP",
            "details": "JSON",
            "quantity": "INTEGER",
            "priority": "INTEGER",
            "weight_mg": "BIGINT",
            "city": "TEXT",
            "note": "TEXT",
        },
        "postgresql": {
            "id": "TEXT",
            "customer": "UUID",
            "amount": "NUMERIC(12, 2)",
            "placed_at": "TIMESTAMPTZ",
            "details": "JSONB",
            "quantity": "INTEGER",
            "priority": "INTEGER",
            "weight_mg": "BIGINT",
            "city": "TEXT",
            "note": "TEXT",
        },
    },
    record=_wide_record,
    json_columns=frozenset({"details"}),
)
