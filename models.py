"""What crosses a boundary: between workflow and activity, through the stream, into a sink, back to the caller."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

CONFIRMATION_SIGNAL = "write_confirmation"
MAX_REQUEST_ID_BYTES = 512  # of UTF-8


def batcher_task_queue(queue: str) -> str:
    """The Temporal task queue of the workers that drain `queue`: each queue has its own, since its workers write to its
    own database.
    """
    return "batcher-queue" if queue == "default" else f"batcher-queue-{queue}"


class Outcome(StrEnum):
    """What became of one write request."""

    WRITTEN = "written"
    DUPLICATE = "duplicate"
    """Written before under the same request id, by the batch that the receipt names."""
    REJECTED = "rejected"
    """The database refuses this record, and would refuse it again; the receipt says why."""
    WITHDRAWN = "withdrawn"
    """Settled before it was written: it has not been written, and never will be for the attempt that asked."""
    QUEUED = "queued"
    """Appended without waiting for more: what `ConfirmBy.NONE` answers. No batch has this outcome."""


class FlushReason(StrEnum):
    """Why a batch was closed."""

    SIZE = "size"
    BYTES = "bytes"
    WAIT = "wait"
    FLUSH = "flush"
    STOP = "stop"


class ConfirmBy(StrEnum):
    """How a caller learns the outcome of its write."""

    SIGNAL = "signal"
    """By the signal `write_confirmation`."""
    COMPLETION = "completion"
    """By the completion of its activity `enqueue_write`, which waits outside of any worker."""
    NONE = "none"
    """Not at all: fire and forget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyAddress:
    """The caller of a write, and how it is told.

    `attempt` names the try that asked: new for every run and for every reset of a run. A rejection or a withdrawal
    binds only the attempt that got it. `call` numbers the submits of an attempt: a request that is submitted anew gets
    an answer of its own, one that is only asked for again does not. `activity_id` is the activity to complete, of the
    run `run_id`; set exactly when `mode` is `ConfirmBy.COMPLETION`.
    """

    workflow_id: str
    run_id: str
    attempt: str
    mode: ConfirmBy = ConfirmBy.SIGNAL
    activity_id: str | None = None
    call: int = 0

    @property
    def waits(self) -> bool:
        """Whether anybody wants a receipt."""
        return self.mode is not ConfirmBy.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """One record for one target table. `reply` is None when no caller is known."""

    request_id: str
    table: str
    record: dict[str, Any]
    reply: ReplyAddress | None = None
    asked_ms: int | None = None
    """When the caller asked, milliseconds since the epoch by its clock: orders the attempts of one workflow."""

    @property
    def attempt(self) -> str | None:
        """The try that asked; None when no caller is known."""
        return self.reply.attempt if self.reply else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Input of the activity `enqueue_write`: a request, its queue, and the key that decides on its partition."""

    queue: str
    key: str
    request: WriteRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests to be written in one transaction. Their request ids differ from each other."""

    batch_id: str
    flush_reason: FlushReason
    requests: tuple[WriteRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReceipt:
    """The outcome of one write request.

    `batch_id`, `batch_size` and `flush_reason` tell of the batch that produced this receipt; only for
    `Outcome.DUPLICATE` does `batch_id` name the earlier batch that wrote the record.
    `error` is set when the outcome is `Outcome.REJECTED`, and when it is `Outcome.WITHDRAWN` by an operator. `attempt`
    is that of the request's reply address, `queue` the one that it was submitted to (None: not known).
    Milliseconds: `queued_ms` from the append until the batch was closed, `write_ms` for its transaction, `confirm_ms`
    from then until this receipt was sent.
    """

    request_id: str
    outcome: Outcome
    queue: str | None = None
    attempt: str | None = None
    batch_id: str | None = None
    batch_size: int | None = None
    flush_reason: FlushReason | None = None
    error: str | None = None
    queued_ms: int | None = None
    write_ms: int | None = None
    confirm_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRef:
    """One partition of a queue."""

    queue: str
    partition: int

    def __str__(self) -> str:
        return f"{self.queue}/{self.partition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainProgress:
    """What one run of the drain has done so far; its heartbeat details. For people to read: nothing depends on it."""

    batches: int = 0
    written: int = 0
    duplicate: int = 0
    rejected: int = 0
    withdrawn: int = 0
    confirmed: int = 0
    without_caller: int = 0
    dead: int = 0
    in_flight: int = 0
    holding: str | None = None
    """Why the current batch cannot be written right now, if so."""


class DrainEnd(StrEnum):
    """Why a drain returned."""

    STOPPED = "stopped"
    """By a worker's shutdown or by its workflow; what was not finished is left for the next drain."""
    EXPIRED = "expired"
    """After its time, so that the workflow can continue as new."""
    RETIRED = "retired"
    """The queue shrank and this partition is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How one run of the drain ended."""

    end: DrainEnd
    progress: DrainProgress
