"""What crosses a boundary: between workflow and activity, through the stream, into a sink, back to the caller."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

CONFIRMATION_SIGNAL = "write_confirmation"
MAX_REQUEST_ID_BYTES = 512  # of UTF-8


def batcher_task_queue(queue: str) -> str:
    """Return the default Temporal task queue of the workers that drain `queue`.

    Queues do not share one, because the workers of each queue write to a different database.
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
    """Settled before it was written: it has not been written and, for this attempt, never will be."""
    QUEUED = "queued"
    """Appended, with the outcome still open: the receipt of `ConfirmBy.NONE`. No batch returns it."""


class FlushReason(StrEnum):
    """Why a batch was closed."""

    SIZE = "size"
    """It held `max_items` requests."""
    BYTES = "bytes"
    """The next request would have exceeded `max_bytes`."""
    WAIT = "wait"
    """Its oldest request had waited for `max_wait`."""
    FLUSH = "flush"
    """Somebody asked for a flush."""
    STOP = "stop"
    """The drain was stopped."""


class ConfirmBy(StrEnum):
    """How a caller learns the outcome of its write."""

    SIGNAL = "signal"
    """By the signal `write_confirmation`."""
    COMPLETION = "completion"
    """By the completion of its activity `enqueue_write`, which stays open without occupying a worker."""
    NONE = "none"
    """Not at all: fire and forget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyAddress:
    """The caller of a write, and how it is told the outcome."""

    workflow_id: str
    run_id: str
    attempt: str
    """The try that submitted the request: new for every run and for every reset of a run. A rejection or a withdrawal
    binds only the attempt that got it.
    """
    mode: ConfirmBy = ConfirmBy.SIGNAL
    activity_id: str | None = None
    """The activity to complete, of the run `run_id`; set exactly when `mode` is `ConfirmBy.COMPLETION`."""
    call: int = 0
    """Numbers the submits of an attempt. A request that is submitted anew has a new number and gets a receipt of its
    own; one that is only repeated, because its receipt is late, keeps its number.
    """

    @property
    def waits(self) -> bool:
        """Whether the caller waits for a receipt."""
        return self.mode is not ConfirmBy.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """One record for one target table."""

    request_id: str
    """1 to `MAX_REQUEST_ID_BYTES` bytes of UTF-8. Requests with the same id are written once."""
    table: str
    record: dict[str, Any]
    """JSON values by column name."""
    reply: ReplyAddress | None = None
    """None when no caller is known."""
    asked_ms: int | None = None
    """When the caller asked, in milliseconds since the epoch by its clock: orders the attempts of one workflow."""

    @property
    def attempt(self) -> str | None:
        """The attempt of the caller; None when no caller is known."""
        return self.reply.attempt if self.reply else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Input of the activities `enqueue_write` and `settle_write`: a request and where it belongs."""

    queue: str
    key: str
    """Requests with the same key go to the same partition."""
    request: WriteRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests to be written in one transaction. Their request ids differ from each other."""

    batch_id: str
    flush_reason: FlushReason
    requests: tuple[WriteRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReceipt:
    """The outcome of one write request. What is not known, or does not apply, is None."""

    request_id: str
    outcome: Outcome
    queue: str | None = None
    """The queue that the request was submitted to."""
    attempt: str | None = None
    """The attempt in the reply address of the request."""
    batch_id: str | None = None
    """The batch that produced this receipt; for `Outcome.DUPLICATE`, the earlier batch that wrote the record."""
    batch_size: int | None = None
    """Requests in the batch that produced this receipt."""
    flush_reason: FlushReason | None = None
    """Why the batch that produced this receipt was closed."""
    error: str | None = None
    """Set when the outcome is `Outcome.REJECTED`, or `Outcome.WITHDRAWN` by an operator."""
    queued_ms: int | None = None
    """Milliseconds from the append until the batch was closed."""
    write_ms: int | None = None
    """Milliseconds of the batch's transaction."""
    confirm_ms: int | None = None
    """Milliseconds from the end of the transaction until this receipt was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRef:
    """One partition of a queue."""

    queue: str
    partition: int
    """From 0."""

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
    """Receipts whose caller had ended or never existed."""
    dead: int = 0
    """Entries moved to the dead letters."""
    in_flight: int = 0
    """Entries that are being collected, written or confirmed right now."""
    holding: str | None = None
    """Why the current batch is held; None when it is not."""


class DrainEnd(StrEnum):
    """Why a drain returned."""

    STOPPED = "stopped"
    """By its worker's shutdown or by its workflow; what it did not finish is left for the next drain."""
    EXPIRED = "expired"
    """Its time was over, so that the workflow can continue as new."""
    RETIRED = "retired"
    """The queue has fewer partitions now, and this one is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How one run of the drain ended."""

    end: DrainEnd
    progress: DrainProgress
