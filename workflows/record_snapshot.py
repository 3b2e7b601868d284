"""The snapshot of a record: taken when `submit` begins, so that the workflow may go on changing its own object."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from temporalio import workflow

PLAIN = frozenset({str, int, float, bool, type(None)})


def snapshot_of(record: object) -> dict[str, Any]:
    """Return the record as JSON values by column name.

    A record is whatever the workflow's payload converter encodes as a JSON object: a mapping, a dataclass, a pydantic
    model with the pydantic converter. Raises `ValueError` when it is not, or when its encoding would differ between
    processes. The message fits into a sentence.
    """
    try:
        return _copied(record) if type(record) is dict else _converted(record)
    except _NotPlain:
        return _converted(record)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
    _check_stable(record)
    try:
        [payload] = workflow.payload_converter().to_payloads([record])
        is_json = payload.metadata.get("encoding", b"").startswith(b"json/")
        columns = json.loads(payload.data) if is_json else None
    except RecursionError:
        raise
    except Exception as error:  # a payload converter may raise anything
        raise ValueError(f"{error}: use JSON values") from error
    if not isinstance(columns, dict):
        raise ValueError(
            f"it is a {type(record).__name__}: use a mapping, a dataclass, or a pydantic model with the converter of "
            "temporalio.contrib.pydantic"
        )
    return columns


def _check_stable(value: object) -> None:
    """Check that every process encodes the value alike: a replay, which may run anywhere, makes the same record again.

    Sets are iterated in another order by each process, and an iterator is empty the second time.
    """
    match value:
        case str() | int() | float() | None:
            return
        case set() | frozenset() | Iterator():
            raise ValueError(f"a {type(value).__name__} has no lasting order: use a list")
        case Mapping():
            parts = list(value.values())
        case list() | tuple():
            parts = list(value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            parts = [getattr(value, field.name) for field in fields(value)]
        case _:  # of a pydantic model, the fields; anything else is left to the payload converter
            parts = [getattr(value, name, None) for name in getattr(type(value), "model_fields", ())]
    for part in parts:
        if type(part) not in PLAIN:
            _check_stable(part)
