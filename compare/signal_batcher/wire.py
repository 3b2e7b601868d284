"""What callers and batchers say to each other, and under which names: those of the original, so that either side may be
replaced by one that knows only these.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self
from zlib import crc32

SUBMIT_SIGNAL = "add_write_request"
CONFIRMATION_SIGNAL = "write_confirmation"
FIRST_BATCHER = "batcher-main"

# Temporal refuses a longer workflow id. For the batcher that would be worse than a refusal: a signal to such a caller
# fails the whole workflow task, again and again.
MAX_WORKFLOW_ID_BYTES = 1_000
MAX_REQUEST_ID_BYTES = 1_100  # a workflow id and a run id
MAX_SUBMITTED_AT_BYTES = 100

FIELDS_BYTES = 200  # for the names of a request's fields, and for what the batcher notes of it

# Python's encoder ends at some 300. A record that can be received but no longer be passed on would do the same harm.
MAX_DEPTH = 100


def batcher_id(queue: str, number: int = 0) -> str:
    """The workflow id of one of the batchers of `queue`. Another queue than `default` comes first in its ids, with a
    slash, which no name of a queue has: so no two queues share a batcher.
    """
    name = FIRST_BATCHER if number == 0 else f"{FIRST_BATCHER}-{number}"
    return name if queue == "default" else f"{queue}/{name}"


def batcher_of(key: str, *, queue: str, batchers: int) -> str:
    """The workflow id of the batcher that writes what has this key; the same for everybody who knows their number."""
    return batcher_id(queue, crc32(key.encode("utf-8", "surrogatepass")) % batchers)


class Status(StrEnum):
    """What a confirmation says."""

    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalledWrite:
    """The one argument of the signal `add_write_request`.

    `data` is the record, `workflow_id` says whose it is. `requesting_workflow` gets the confirmation; empty: nobody
    waits. `submitted_at` and `attempt` tell one try of the same request id from another.
    """

    workflow_id: str
    data: dict[str, Any]
    requesting_workflow: str
    request_id: str
    submitted_at: str = ""
    attempt: int = 1

    @classmethod
    def parse(cls, argument: Any) -> Self:
        """From what came with a signal. Raises ValueError for everything that cannot be a request."""
        fields = _fields(argument)
        data = fields.get("data")
        if not isinstance(data, dict):
            raise ValueError(f"data is {_kind(data)}, not an object")
        if _is_deeper_than(data, MAX_DEPTH):
            raise ValueError(f"data is nested deeper than {MAX_DEPTH} levels")
        submitted_at = fields.get("submitted_at", "")
        if isinstance(submitted_at, int | float):
            submitted_at = str(submitted_at)
        attempt = fields.get("attempt", 1)
        if not isinstance(attempt, int) or isinstance(attempt, bool) or not 0 <= attempt < 2**63:
            raise ValueError(f"attempt is {_kind(attempt)}, not a number from 0 on")
        return cls(
            workflow_id=_text("workflow_id", fields.get("workflow_id"), MAX_WORKFLOW_ID_BYTES),
            data=data,
            requesting_workflow=_text(
                "requesting_workflow", fields.get("requesting_workflow"), MAX_WORKFLOW_ID_BYTES, may_be_empty=True
            ),
            request_id=_text("request_id", fields.get("request_id"), MAX_REQUEST_ID_BYTES),
            submitted_at=_text("submitted_at", submitted_at, MAX_SUBMITTED_AT_BYTES, may_be_empty=True),
            attempt=attempt,
        )

    @property
    def this_try(self) -> str:
        """The same when this very signal comes again, different when its caller asks anew."""
        return f"{self.submitted_at}/{self.attempt}"

    @property
    def size_bytes(self) -> int:
        """About as many as it takes in the input of an activity."""
        # Temporal's converter would take eight times as long, and thousands of signals may come in one workflow task.
        values = (self.data, self.workflow_id, self.requesting_workflow, self.request_id, self.submitted_at)
        return FIELDS_BYTES + len(json.dumps(values))

    @property
    def submitted_ms(self) -> int | None:
        """`submitted_at` as milliseconds since the epoch, when it is an ISO time."""
        try:
            at = datetime.fromisoformat(self.submitted_at)
            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The one argument of the signal `write_confirmation`.

    `count` is how many requests of the batch are in the database, `batch_size` how many it had. `batch_id` names the
    batch that wrote the record, which for a request that was written before is an earlier one.

    What follows is not the original's, and need not be there. `is_certain` is False when the database could not be
    asked: a failed write may then have been made all the same.
    """

    status: Status
    count: int
    batch_id: str
    batch_size: int
    request_id: str | None = None
    error: str | None = None
    is_certain: bool = True

    @classmethod
    def parse(cls, argument: Any) -> Self:
        """From what came with a signal. Raises ValueError for everything that cannot be a confirmation."""
        fields = _fields(argument)
        count, batch_size = fields.get("count"), fields.get("batch_size")
        if not isinstance(count, int) or not isinstance(batch_size, int):
            raise ValueError("count and batch_size are not both numbers")
        batch_id, request_id, error = (fields.get(name) for name in ("batch_id", "request_id", "error"))
        return cls(
            status=Status(str(fields.get("status"))),
            count=count,
            batch_id=str(batch_id),
            batch_size=batch_size,
            request_id=None if request_id is None else str(request_id),
            error=None if error is None else str(error),
            is_certain=fields.get("is_certain", True) is not False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStats:
    """The answer to the query `get_stats`. `pending_writes` wait, or are being written; the signals are of this run."""

    pending_writes: int
    processed_batches: int
    session_signals_received: int
    processed_request_ids_count: int
    continue_as_new_cycle: int
    batch_size_limit: int
    is_continue_suggested: bool


def _fields(argument: Any) -> dict[str, Any]:
    if not isinstance(argument, dict):
        raise ValueError(f"the argument is {_kind(argument)}, not an object")
    return argument


def _text(name: str, value: Any, max_bytes: int, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_kind(value)}, not a text")
    if not value and not may_be_empty:
        raise ValueError(f"{name} is empty")
    # A lone surrogate cannot be encoded, which is a ValueError as well.
    if len(value.encode()) > max_bytes or "\0" in value:
        raise ValueError(f"{name} {value[:80]!r} has a NUL or more than {max_bytes} bytes")
    return value


def _is_deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
