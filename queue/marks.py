"""Marks at single entries of a partition: the drain holds it; an operator orders what to do with it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

MAX_REASON = 1000  # characters; a database's message may quote the whole record


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMark:
    """An entry that the drain cannot decide about now, and tries again."""

    request_id: str
    reason: str
    """At most `MAX_REASON` characters are kept."""
    since_ms: int
    """When it was held first: milliseconds since the epoch, by the clock of Redis."""


class Order(StrEnum):
    """What an operator wants done with an entry that is held."""

    REJECT = "reject"
    """Tell its caller that it is rejected, and make it a dead letter."""
    RELEASE = "release"
    """Try it again at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenOrder:
    """An order that the drain has not carried out yet."""

    order: Order
    reason: str = ""
    """Why it is rejected, for its caller. At most `MAX_REASON` characters are kept."""


def encode_mark(mark: HeldMark | GivenOrder) -> str:
    """Return the mark as JSON: pure ASCII, whatever the texts in it are."""
    return json.dumps({**asdict(mark), "reason": mark.reason[:MAX_REASON]})


def decode_held_marks(stored: Mapping[bytes, bytes]) -> dict[str, HeldMark]:
    """Return the marks by entry id, without those that nobody can read."""
    return {entry_id: mark for entry_id, value in _read(stored) if (mark := _held_mark(value))}


def decode_orders(stored: Mapping[bytes, bytes]) -> dict[str, GivenOrder]:
    """Return the orders by entry id, without those that nobody can read."""
    return {entry_id: order for entry_id, value in _read(stored) if (order := _given_order(value))}


def _read(stored: Mapping[bytes, bytes]) -> list[tuple[str, Any]]:
    readable = []
    for entry_id, text in stored.items():
        try:
            readable.append((entry_id.decode(), json.loads(text)))
        except (ValueError, RecursionError):
            continue
    return readable


def _held_mark(value: Any) -> HeldMark | None:
    match value:
        case {"request_id": str(request_id), "reason": str(reason), "since_ms": int(since_ms)}:
            return HeldMark(request_id=request_id, reason=reason, since_ms=since_ms)
    return None


def _given_order(value: Any) -> GivenOrder | None:
    match value:
        case {"order": "reject" | "release" as order, "reason": str(reason)}:
            return GivenOrder(order=Order(order), reason=reason)
    return None
