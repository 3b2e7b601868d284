"""What callers and batchers send each other.

The names are those of the original: the demo from which the older design comes. Either side may be replaced by that of
the original, which knows no others.
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

# Temporal refuses a longer workflow id. A batcher must not accept one either: a signal to such a caller would fail its
# workflow task again and again.
MAX_WORKFLOW_ID_BYTES = 1_000
MAX_REQUEST_ID_BYTES = 1_100  # a workflow id and a run id
MAX_SUBMITTED_AT_BYTES = 100

FIELDS_BYTES = 200  # for the names of a request's fields, and for what the batcher adds to it

# Python's encoder fails beyond some 300 levels. A record that can be received but not be passed on would do the same
# harm as too long an id.
MAX_DEPTH = 100


def batcher_id(queue: str, number: int = 0) -> str:
    """Return the workflow id of the batcher `number` of `queue`.

    A queue other than `default` is a prefix of its ids, followed by a slash. No name of a queue contains one, so no two
    queues share a batcher.
    """
    name = FIRST_BATCHER if number == 0 else f"{FIRST_BATCHER}-{number}"
    return name if queue == "default" else f"{queue}/{name}"


def batcher_of(key: str, *, queue: str, batchers: int) -> str:
    """Return the workflow id of the batcher for `key`, one of `batchers`; the same in every process."""
    return batcher_id(queue, crc32(key.encode("utf-8", "surrogatepass")) % batchers)


class Status(StrEnum):
    """What a confirmation says."""

    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalledWrite:
    """The one argument of the signal `add_write_request`.

    `submitted_at` and `attempt` tell apart the attempts to submit the same request id.
    """

    workflow_id: str
    """The caller that the record belongs to."""
    data: dict[str, Any]
    """The record."""
    requesting_workflow: str
    """The workflow id that gets the confirmation; empty when nobody waits."""
    request_id: str
    submitted_at: str = ""
    attempt: int = 1

    @classmethod
    def parse(cls, argument: Any) -> Self:
        """Parse the argument of a signal, whatever it is. Raises `ValueError` when it is not a request."""
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
            raise ValueError(f"attempt is {_kind(attempt)}, not an integer from 0 to 2**63 - 1")
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
    def attempt_key(self) -> str:
        """The same when a signal is delivered twice, different when its caller submits again."""
        return f"{self.submitted_at}/{self.attempt}"

    @property
    def size_bytes(self) -> int:
        """Return an upper bound, close to the size that it takes in the input of an activity."""
        # Temporal's converter takes eight times as long, and one workflow task may have thousands of signals.
        values = (self.data, self.workflow_id, self.requesting_workflow, self.request_id, self.submitted_at)
        return FIELDS_BYTES + len(json.dumps(values))

    @property
    def submitted_ms(self) -> int | None:
        """`submitted_at` in milliseconds since the epoch; None when it is not an ISO time."""
        try:
            at = datetime.fromisoformat(self.submitted_at)
            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The one argument of the signal `write_confirmation`.

    The first four fields are those of the original; the others are optional.
    """

    status: Status
    count: int
    """Requests of the batch that are in the database."""
    batch_id: str
    """The batch that wrote the record: an earlier one for a request that was written before."""
    batch_size: int
    """Requests of the batch."""
    request_id: str | None = None
    error: str | None = None
    is_certain: bool = True
    """False when the database could not be asked: a write that is reported as failed may have been made."""

    @classmethod
    def parse(cls, argument: Any) -> Self:
        """Parse the argument of a signal, whatever it is. Raises `ValueError` when it is not a confirmation."""
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
    """The answer to the query `get_stats`."""

    pending_writes: int
    """Requests that wait or are being written."""
    processed_batches: int
    session_signals_received: int
    """In this run."""
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
        raise ValueError(f"{name} is {_kind(value)}, not a string")
    if not value and not may_be_empty:
        raise ValueError(f"{name} is empty")
    # A lone surrogate cannot be encoded: that raises a ValueError as well.
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
