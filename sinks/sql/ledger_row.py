"""What the write ledger knows of a request id, how it binds later requests, and its coding as columns."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from write_batcher.errors import InvalidRequest
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.records import printable

# PostgreSQL indexes at most 2,704 bytes. Request ids begin with Temporal's workflow ids, of at most 1,000 bytes.
MAX_ID_BYTES = 2_000
MAX_ATTEMPTS = 100  # that one row remembers: each waited for its whole timeout before the next one began


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who asked for a write. All fields are None when no caller is known."""

    name: str | None
    workflow_id: str | None = None
    asked_ms: int | None = None
    """Milliseconds since the epoch, by the caller's clock."""

    def binds(self, later: "Attempt") -> bool:
        """Whether an outcome that this attempt got holds for `later` too: it is the same attempt, or an earlier one of
        the same workflow, whose entry may still be on its way.
        """
        if later.name == self.name:
            return True
        if self.workflow_id is None or self.workflow_id != later.workflow_id:
            return False
        return self.asked_ms is not None and later.asked_ms is not None and later.asked_ms < self.asked_ms

    def released_from(self, asked_ms: int | None) -> "Attempt":
        """This attempt, but not binding any attempt of its workflow that asked at `asked_ms` or later."""
        if self.asked_ms is None or asked_ms is None:
            return self
        return replace(self, asked_ms=min(self.asked_ms, asked_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """The outcome of a request id."""

    request_id: str
    record_hash: str
    outcome: Outcome
    batch_id: str | None
    """None when the request was withdrawn."""
    attempts: tuple[Attempt, ...]
    """The attempts that the outcome binds, the latest last. A new request has one."""
    error: str | None

    @classmethod
    def of(cls, request: WriteRequest, *, outcome: Outcome, batch_id: str | None) -> Self:
        """Return the row that `request` gets unless the database decides otherwise.

        Raises `InvalidRequest` when the ledger cannot hold the request.
        """
        workflow_id = request.reply.workflow_id if request.reply else None
        for name, value in (
            ("request id", request.request_id),
            ("workflow id", workflow_id),
            ("attempt", request.attempt),
        ):
            if value is not None and not _is_storable(value):
                raise InvalidRequest(
                    f"The {name} {value[:80]!r} cannot be kept: use up to {MAX_ID_BYTES} bytes of UTF-8 without NUL."
                )
        if request.attempt is not None and "\n" in request.attempt:
            raise InvalidRequest(f"The attempt {request.attempt[:80]!r} cannot be kept: use a single line.")
        return cls(
            request_id=request.request_id,
            record_hash=record_hash(request),
            outcome=outcome,
            batch_id=batch_id,
            attempts=(Attempt(request.attempt, workflow_id, request.asked_ms),),
            error=None,
        )

    @classmethod
    def from_columns(cls, columns: Mapping[Any, Any]) -> Self:
        """Decode the row as it is stored in the ledger."""
        return cls(
            request_id=columns["request_id"],
            record_hash=columns["record_hash"],
            outcome=Outcome(columns["outcome"]),
            batch_id=columns["batch_id"],
            attempts=_attempts_from(columns["attempt"], columns["workflow_id"], columns["asked_ms"]),
            error=columns["error"],
        )

    def columns(self) -> dict[str, Any]:
        """Encode the row for the ledger."""
        return {
            "request_id": self.request_id,
            "record_hash": self.record_hash,
            "outcome": self.outcome.value,
            "batch_id": self.batch_id,
            "workflow_id": self.attempts[-1].workflow_id,
            "attempt": _attempts_as_text(self.attempts),
            "asked_ms": self.attempts[-1].asked_ms,
            "error": self.error,
        }

    def binds(self, later: "LedgerRow") -> bool:
        """Whether this row of the ledger decides the outcome of a later request with the same id.

        `written` binds every attempt. A rejection or a withdrawal binds the attempts that got it, so that a reset
        workflow may write.
        """
        (asker,) = later.attempts
        return self.outcome is Outcome.WRITTEN or any(attempt.binds(asker) for attempt in self.attempts)

    def replacing(self, earlier: "LedgerRow | None") -> Self:
        """This row as it replaces `earlier`, whose attempts stay bound."""
        if earlier is None or self.outcome is Outcome.WRITTEN:
            return self
        bound = [attempt for attempt in earlier.attempts if attempt.name is not None]
        added = [attempt for attempt in self.attempts if attempt.name is not None or not bound]
        return replace(self, attempts=(*bound, *added)[-MAX_ATTEMPTS:])

    def receipt(self) -> WriteReceipt:
        return WriteReceipt(
            request_id=self.request_id,
            outcome=self.outcome,
            batch_id=self.batch_id,
            error=self.error,
            attempt=self.attempts[-1].name,
        )

    def receipt_for(self, later: "LedgerRow", *, written_as: Outcome) -> WriteReceipt:
        """Return the receipt of a later request with the same id that this row binds."""
        if self.record_hash != later.record_hash:
            error = printable(
                f"Conflict: request id {later.request_id!r} was already used for another record; "
                "give each record its own request id."
            )
            return replace(later, outcome=Outcome.REJECTED, error=error).receipt()
        outcome = written_as if self.outcome is Outcome.WRITTEN else self.outcome
        return replace(self, outcome=outcome, attempts=later.attempts).receipt()


def record_hash(request: WriteRequest) -> str:
    """Return SHA-256 over the canonical JSON of table and record, before any conversion to column types.

    Raises `InvalidRequest` when the record is not JSON.
    """
    try:
        text = json.dumps([request.table, request.record], sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The record for table {request.table!r} is not JSON: {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _attempts_as_text(attempts: tuple[Attempt, ...]) -> str | None:
    """The column `attempt`: one line with the name of each attempt, and behind it a line of JSON with its workflow id
    and time. The latest has no such line, because those stand in columns. Older batchers, which know lines of names
    only, take the JSON for another name.
    """
    *before, latest = attempts
    if latest.name is None:
        return None
    lines: list[str] = []
    for attempt in before:
        lines.append(attempt.name or "")
        if attempt.workflow_id is not None and attempt.asked_ms is not None:
            lines.append(json.dumps([attempt.workflow_id, attempt.asked_ms]))
    return "\n".join([*lines, latest.name])


def _attempts_from(text: str | None, workflow_id: str | None, asked_ms: int | None) -> tuple[Attempt, ...]:
    if text is None:
        return (Attempt(None, workflow_id, asked_ms),)
    *lines, latest = text.split("\n")
    before: list[Attempt] = []
    for line in lines:
        if before and (asker := _workflow_and_time(line)) is not None:
            before[-1] = Attempt(before[-1].name, *asker)
        else:
            before.append(Attempt(line))
    return (*before, Attempt(latest, workflow_id, asked_ms))


def _workflow_and_time(line: str) -> tuple[str, int] | None:
    """None when the line is the name of an attempt."""
    try:
        match json.loads(line):
            case [str(workflow_id), int(asked_ms)]:
                return workflow_id, asked_ms
    except (ValueError, RecursionError):
        pass
    return None


def _is_storable(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_ID_BYTES and "\0" not in text
    except UnicodeEncodeError:
        return False
