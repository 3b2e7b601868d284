"""What crosses a boundary: between workflow and activity, through the stream, into a sink, back to the caller."""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

CONFIRMATION_SIGNAL = "write_confirmation"
MAX_REQUEST_ID_BYTES = 512  # of UTF-8
MAX_REQUEST_AGE = timedelta(days=7)  # a request that was appended longer ago is not written any more
PARK_AFTER = timedelta(minutes=1)  # without requests, a drain is parked: that and waking it cost a few actions
PARKED_FOR = timedelta(hours=6)  # then it is started for a moment: it tidies up, and finds what no worker has seen
HEARTBEAT_TIMEOUT = timedelta(seconds=5)  # of a drain, unless a batcher is given another

MAX_TASK_QUEUE_CHARS = 500  # Temporal takes 1,000, of which it uses some for its sticky queues
TASK_QUEUE = re.compile(rf"(?! )[ -~]{{1,{MAX_TASK_QUEUE_CHARS}}}(?<! )")
RESERVED_PREFIX = "/_sys/"


def batcher_task_queue(queue: str) -> str:
    """Return the default Temporal task queue of the workers that drain `queue`.

    Queues do not share one, because the workers of each queue write to a different database.
    """
    return "batcher-queue" if queue == "default" else f"batcher-queue-{queue}"


def checked_task_queue(name: object) -> str:
    """Return the name of a task queue. Raises `ValueError` when Temporal would not take it: a workflow task that names
    such a queue is retried for ever. The message says what to use, and goes on in a sentence.
    """
    if not isinstance(name, str) or not TASK_QUEUE.fullmatch(name) or name.startswith(RESERVED_PREFIX):
        raise ValueError(
            f"use the name of a task queue: 1 to {MAX_TASK_QUEUE_CHARS} printable ASCII characters, no space at either "
            f"end, not beginning with {RESERVED_PREFIX}"
        )
    return str.__str__(name)


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
    IDLE = "idle"
    """With a pace: the writer was free, and it was this partition's turn."""
    FLUSH = "flush"
    """Somebody asked for a flush."""
    STOP = "stop"
    """The drain was stopped."""
    RETRY = "retry"
    """It consists of held requests that are tried again, or of one that is suspected to be poison."""


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
    """The try that submitted the request: new for every call of `submit`, in every run and after every reset, and the
    same when a call submits its request again. A rejection or a withdrawal binds only the attempt that got it.
    """
    mode: ConfirmBy = ConfirmBy.SIGNAL
    activity_id: str | None = None
    """The activity to complete, of the run `run_id`; set exactly when `mode` is `ConfirmBy.COMPLETION`."""
    awaits_replay: bool = False
    """Whether the caller goes on waiting after a rejection, for a replay of its dead letter."""

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
    key: str = ""
    """Requests with the same key go to the same partition and are written in the order of their append. Empty: the
    request id.
    """
    reply: ReplyAddress | None = None
    """None when no caller is known."""
    asked_ms: int | None = None
    """When the caller asked, in milliseconds since the epoch by its clock: orders the attempts of one workflow."""
    record_hash: str = ""
    """SHA-256 of table and record, as `queue.record_encoding` computes it. Empty on its way to the queue."""
    replayed: bool = False
    """Whether an operator replayed its dead letter: then no earlier rejection binds it."""

    @property
    def attempt(self) -> str | None:
        """The attempt of the caller; None when no caller is known."""
        return self.reply.attempt if self.reply else None

    @property
    def order_key(self) -> str:
        """What it shares with the requests that it must not overtake: its key, or its request id."""
        return self.key or self.request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Input of the activities `enqueue_write` and `settle_write`: requests for one queue."""

    queue: str
    requests: list[WriteRequest]
    confirm_timeout_ms: int | None = None
    """How long the callers wait for their receipts; None when they do not."""
    unless_dead: bool = False
    """Whether a request that is a dead letter stays one, instead of being appended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """The answer of `enqueue_write` for one request."""

    entry: str | None = None
    """`<partition>/<entry id>` of the request in its stream; None when it is not there."""
    refused: str | None = None
    """Why the request has not been appended; None when it has."""
    later: bool = False
    """Whether a refused request may be accepted later: its queue has no batcher yet, or no batcher with its table."""
    certain: bool = True
    """Whether no earlier try of the activity can have appended a refused request."""
    dead: bool = False
    """Whether the request is a dead letter, and stays one."""
    no_batcher: bool = False
    """Whether it is refused because its queue has no batcher: nobody could be asked what became of it either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests to be written in one transaction. Their request ids differ from each other."""

    batch_id: str
    queue: str
    """`<namespace>/<queue>`: request ids are unique within it."""
    flush_reason: FlushReason
    requests: tuple[WriteRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReceipt:
    """The outcome of one write request. What is not known, or does not apply, is None."""

    request_id: str
    outcome: Outcome
    queue: str | None = None
    """The queue that the request was submitted to."""
    record_hash: str | None = None
    """SHA-256 of the table and the record that this receipt is about; None when nobody could decode them."""
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
class Settled:
    """The answer of `settle_write` for one request: its receipt, or why it has none yet."""

    receipt: WriteReceipt | None = None
    reason: str | None = None
    """Why the request cannot be settled now; it may be later. None with a receipt."""
    asked: bool = True
    """Whether the sink was asked. If not, for lack of time, it may be asked at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The answer of a sink that cannot decide about a request now: it, and what follows with its key, is tried again
    later, and nobody else waits.
    """

    request_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRef:
    """A queue, named within all that share a Redis or a database."""

    namespace: str
    """The Temporal namespace of its callers and its batcher."""
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRef:
    """One partition of a queue."""

    queue: str
    partition: int
    """From 0."""

    def __str__(self) -> str:
        return f"{self.queue}/{self.partition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainInput:
    """Input of the activity `drain`."""

    partition: PartitionRef
    sink_id: str = ""
    """The sink that the partition's batcher was started for. A drain with another one ends. Empty: any."""
    heartbeat_timeout_ms: int | None = None
    """The heartbeat timeout of this drain. If its worker has another, the drain returns at once. None: it stays."""
    parks_at_once: bool = False
    """Whether it only tidies up after a long time of rest, and is parked again as soon as there is nothing to do."""


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
    held: int = 0
    """Entries that cannot be decided now, and those that wait behind them."""
    holding: str | None = None
    """Why nothing is written or taken at all: the sink is away, or too much is held. None otherwise."""
    throttled: str | None = None
    """What is done to keep the target latency; None when nothing has to be done."""


class DrainEnd(StrEnum):
    """Why a drain returned."""

    STOPPED = "stopped"
    """By its worker's shutdown or by its workflow; what it did not finish is left for the next drain."""
    EXPIRED = "expired"
    """Its time was over, so that the workflow can continue as new."""
    RETIRED = "retired"
    """The queue has fewer partitions now, and this one is empty."""
    RECONFIGURED = "reconfigured"
    """Its worker has another heartbeat timeout; it has drained nothing."""
    PARKED = "parked"
    """There was nothing to do for a while. A batcher worker wakes its workflow when there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How one run of the drain ended."""

    end: DrainEnd
    progress: DrainProgress
    heartbeat_timeout_ms: int | None = None
    """The heartbeat timeout of its worker; set exactly when `end` is `DrainEnd.RECONFIGURED`."""
