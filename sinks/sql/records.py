"""Checking a record against the columns of its table, so that most bad records never reach the database."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator, core_schema, to_json
from sqlalchemy import Column, Table

from write_batcher.errors import InvalidRequest
from write_batcher.escaping import escaped

MAX_ERROR_CHARS = 500  # of an error in a receipt: it goes into a workflow's history, which is limited
MAX_VALUE_CHARS = 80  # of a value that is quoted in an error
INTEGER_BOUND = 2**63  # the largest integer type of SQLite and PostgreSQL has 64 bits, with a sign

# Python types of columns that JSON values are checked for. Columns of other types are checked when values are bound.
CHECKED_TYPES = frozenset({bool, int, float, str, bytes, Decimal, date, time, timedelta, UUID})

# What NUL and numbers that are not finite look like in JSON. The words may stand in a text, too.
PERHAPS_UNSTORABLE = (b"\\u0000", b"NaN", b"Infinity")

# Strict, or the string "12" would be written as a number and 1 as a boolean. Bytes are base64 in JSON.
STRICT = ConfigDict(strict=True, val_json_bytes="base64")


class RecordCheck:
    """Turns the JSON of a record into the values for one table."""

    def __init__(self, table: Table, *, key: Collection[str] = ()) -> None:
        """`key` names columns that a record must have even if they have a default."""
        self.table = table
        self._columns = {column.key: column for column in table.columns if _is_writable(column)}
        self._adapters = {key: _adapter(column) for key, column in self._columns.items()}
        self._whole = _whole_record(self._adapters)
        self._required = [name for name, column in self._columns.items() if name in key or _is_required(column, table)]

    def values(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the values to insert, as the Python types of their columns.

        Raises `InvalidRequest` when the record does not fit; it names the table and every column at fault with its
        value.
        """
        if not record:
            raise InvalidRequest(f"The record for table {self.table.name!r} is empty; give it at least one column.")
        values = self._usual_values(record)
        if values is not None:
            return values
        values = {}
        problems = [f"column {key!r} ({self._columns[key].type}) is required" for key in self._missing(record)]
        for key, value in record.items():
            if key not in self._columns:
                problems.append(f"there is no column {key!r} to write to, only {', '.join(self._columns)}")
                continue
            try:
                values[key] = self._value(key, value)
            except (ValueError, RecursionError) as error:
                column = f"column {key!r} ({self._columns[key].type})"
                problems.append(f"{column} cannot hold {_quoted(value)}: {_reason(error)}")
        if problems:
            raise InvalidRequest(
                printable(f"The record does not fit table {self.table.name!r}: {'; '.join(problems)}.")
            )
        return values

    def _usual_values(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """The values of a record that fits, checked at once; None when anything about it is unusual."""
        if not all(map(record.__contains__, self._required)):
            return None
        try:
            text = to_json(record)
            if any(map(text.__contains__, PERHAPS_UNSTORABLE)):
                _refuse_unstorable(record)
            values: dict[str, Any] = self._whole.validate_json(text)
        except (ValueError, RecursionError):
            return None
        return values

    def _missing(self, record: dict[str, Any]) -> Iterator[str]:
        return (key for key in self._required if key not in record)

    def _value(self, key: str, value: Any) -> Any:
        _refuse_unstorable(value)
        return self._adapters[key].validate_json(json.dumps(value))


def printable(text: str) -> str:
    """Return `text` in one line that every database and log can hold, cut to 500 characters. Control characters and
    lone surrogates are escaped: a record that somebody else wrote must not steer a terminal or forge a log line.
    """
    text = escaped(text)
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"


def _is_writable(column: Column[Any]) -> bool:
    return column.computed is None and not (column.identity is not None and column.identity.always)


def _is_required(column: Column[Any], table: Table) -> bool:
    has_default = column.default is not None or column.server_default is not None or column.identity is not None
    return not (column.nullable or has_default or column is table.autoincrement_column)


def _adapter(column: Column[Any]) -> TypeAdapter[Any]:
    json_type = _json_type(column)
    accepted: Any = json_type | None if column.nullable else json_type  # Any: the type is made at run time
    return TypeAdapter(accepted, config=STRICT)


def _whole_record(adapters: Mapping[str, TypeAdapter[Any]]) -> SchemaValidator:
    """A check of a whole record, which has some of the columns."""
    fields = {key: core_schema.typed_dict_field(one.core_schema, required=False) for key, one in adapters.items()}
    config = core_schema.CoreConfig(strict=True, val_json_bytes="base64")
    return SchemaValidator(core_schema.typed_dict_schema(fields, extra_behavior="forbid", config=config))


def _json_type(column: Column[Any]) -> Any:
    try:
        python_type = column.type.python_type
    except NotImplementedError:
        return Any
    if python_type is datetime:
        with_timezone = getattr(column.type, "timezone", False)
        return Annotated[datetime, PlainValidator(partial(_timestamp, with_timezone=with_timezone))]
    if python_type is int:
        return Annotated[int, Field(ge=-INTEGER_BOUND, lt=INTEGER_BOUND)]
    return python_type if python_type in CHECKED_TYPES else Any


def _timestamp(value: Any, *, with_timezone: bool) -> datetime:
    """Parse ISO 8601; Pydantic would take "20240101" for seconds since 1970.

    Timestamps are stored in UTC: SQLite would drop an offset, PostgreSQL would convert to the session's time zone.
    """
    if not isinstance(value, str):
        raise ValueError("expected a timestamp in ISO 8601")
    timestamp = datetime.fromisoformat(value)
    if timestamp.tzinfo is None:
        timestamp = timestamp.replace(tzinfo=UTC)
    try:
        timestamp = timestamp.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("expected a timestamp in the years 1 to 9999") from error
    return timestamp if with_timezone else timestamp.replace(tzinfo=None)


def _refuse_unstorable(value: Any) -> None:
    """Refuse what JSON can hold but no database can store, at any depth."""
    pending = [value]
    while pending:
        match pending.pop():
            case str(text):
                if "\0" in text:
                    raise ValueError("text may not contain NUL")
                if not text.isascii():
                    text.encode()  # UnicodeEncodeError for a lone surrogate
            case float(number) if not math.isfinite(number):
                raise ValueError("a number must be finite")
            case list(items):
                pending.extend(items)
            case dict(members):
                pending.extend(members)
                pending.extend(members.values())


def _quoted(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, values nested a thousand levels deep
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors(include_url=False, include_input=False)[0]["msg"]
    return str(error)
