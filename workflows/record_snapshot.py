"""The snapshot of a record: taken in `submit`, so that the workflow may go on changing its own object."""

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

from temporalio import workflow

from write_batcher.escaping import shown

PLAIN = frozenset({str, int, float, bool, type(None)})
BYTES = (bytes, bytearray, memoryview)


def snapshot_of(record: object) -> dict[str, Any]:
    """Return the record as JSON values by column name.

    A record is a mapping of column names to values, or whatever else the workflow's payload converter encodes as a JSON
    object: a dataclass, a pydantic model with the pydantic converter. Raises `ValueError` when it is not, or when its
    encoding would differ between processes. The message fits into a sentence.
    """
    try:
        if type(record) is dict:
            with contextlib.suppress(_NotPlain):
                copy: dict[str, Any] = _copied(record)
                return copy
        return _converted(record)
    except RecursionError:
        raise ValueError("it is nested too deeply: use fewer levels") from None


def fault_of(columns: Collection[tuple[object, object]], encode: Callable[[object], object], error: Exception) -> str:
    """Return why a record cannot be encoded, given that `encode` raises this for all columns together: with the name of
    the first column that it refuses.
    """
    for name, value in columns:
        try:
            encode(value)
        except Exception as its_own:  # noqa: BLE001 - as the payload converter, it may raise anything
            detail = "" if type(value) in PLAIN else f" ({its_own})"
            return f"column {shown(name)} is {shown(value)}{detail}: use JSON values"
    names = [shown(name) for name, _ in columns if not isinstance(name, str)]
    return f"{names[0]} is no column name: use text" if names else f"{error}: use JSON values"


class _NotPlain(Exception):
    """A value is not made of JSON's own types alone."""


def _copied(value: Any) -> Any:
    """A copy of a value that is JSON already: much cheaper than the payload converter, for thousands at once."""
    if type(value) is dict:
        if any(type(key) is not str for key in value):
            raise _NotPlain
        return {key: part if type(part) in PLAIN else _copied(part) for key, part in value.items()}
    if type(value) is list:
        return [part if type(part) in PLAIN else _copied(part) for part in value]
    raise _NotPlain


def _converted(record: object) -> dict[str, Any]:
    columns = _checked_columns(record)
    to_payloads = workflow.payload_converter().to_payloads
    try:
        [payload] = to_payloads([dict(columns) if isinstance(record, Mapping) else record])
        is_json = payload.metadata.get("encoding", b"").startswith(b"json/")
        encoded = json.loads(payload.data) if is_json else None
    except RecursionError:
        raise
    except Exception as error:  # a payload converter may raise anything
        raise ValueError(fault_of(columns, lambda value: to_payloads([value]), error)) from error
    if not isinstance(encoded, dict):
        raise ValueError(
            f"it is {shown(record)}: use a mapping, a dataclass, or a pydantic model with the converter of "
            "temporalio.contrib.pydantic"
        )
    return encoded


def _checked_columns(record: object) -> list[tuple[object, object]]:
    """The columns of a record, all of which every process encodes alike; none when it has no columns."""
    try:
        columns = [] if isinstance(record, list | tuple) else list(_parts_of(record))
        for name, value in columns:
            if fault := _fault_of_type(value):
                raise ValueError(f"column {shown(name)} {fault}")
    except (RecursionError, ValueError):
        raise
    except Exception as error:  # an object may do anything when it is read
        raise ValueError(f"it cannot be read: {type(error).__name__}: {error}") from error
    return columns


def _parts_of(value: object) -> Iterable[tuple[object, object]]:
    """Names and values of what a record, or an object within it, is made of."""
    match value:
        case Mapping():
            return value.items()
        case list() | tuple():
            return enumerate(value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return ((field.name, getattr(value, field.name)) for field in fields(value))
        case _:  # of a pydantic model, the fields; it knows how to encode bytes. Anything else has no parts
            parts = ((name, getattr(value, name, None)) for name in getattr(type(value), "model_fields", ()))
            return (part for part in parts if not isinstance(part[1], BYTES))


def _fault_of_type(value: object) -> str | None:
    """Why JSON does not hold the value, or each process encodes it in another way: a replay, which may run anywhere,
    makes the same record again. None when nothing is wrong.
    """
    match value:
        case str() | int() | float() | None:
            return None
        case Set() | Iterator():  # each process iterates a set in another order; an iterator is empty the second time
            return f"holds a {type(value).__name__}, which has no lasting order: use a list"
        case bytes() | bytearray() | memoryview():
            return f"holds {type(value).__name__}, which JSON cannot hold: use text, such as base64"
    faults = (_fault_of_type(part) for _, part in _parts_of(value) if type(part) not in PLAIN)
    return next(filter(None, faults), None)
