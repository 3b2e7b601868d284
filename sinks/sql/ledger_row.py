"""What the write ledger knows of a request id, and how that decides about later requests. No database is asked here.

| the row says          | it decides about                                                                         |
|-----------------------|------------------------------------------------------------------------------------------|
| written               | everybody: the same record is a duplicate, another one a conflict                        |
| rejected or withdrawn | the attempt that was told so, and earlier attempts of its workflow, which may be on their |
|                       | way. Never a later call: who corrects a record, or tries again, gets an answer of its own |

A replayed request ignores rejections, which is what the replay is for, but not withdrawals, because their caller was
told "not written".
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from write_batcher.errors import InvalidRequest
from write_batcher.models import MAX_REQUEST_AGE, Outcome, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.records import printable

MAX_ID_BYTES = 2_000  # for queue and request id together: PostgreSQL indexes at most 2,704 bytes
MAX_DECISIONS = 200  # in one row. Each caller waited for its whole timeout, so that more than a few are rare
LARGEST_INTEGER = 2**63 - 1  # that a column of the ledger can hold
EXPIRY_MARGIN = timedelta(days=1)  # for clocks that differ, and for what is being written when an entry gets too old


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A rejection or a withdrawal that one attempt was told."""

    attempt: str
    workflow_id: str
    asked_ms: int | None
    """Milliseconds since the epoch, by the caller's clock."""
    outcome: Outcome
    error: str | None = None

    @classmethod
    def of(cls, reply: ReplyAddress, asked_ms: int | None, outcome: Outcome, error: str | None) -> Self:
        return cls(
            attempt=reply.attempt, workflow_id=reply.workflow_id, asked_ms=asked_ms, outcome=outcome, error=error
        )

    def is_about(self, request: WriteRequest) -> bool:
        """Whether this very attempt makes the request."""
        reply = request.reply
        return reply is not None and (reply.attempt, reply.workflow_id) == (self.attempt, self.workflow_id)

    def binds(self, request: WriteRequest) -> bool:
        """Whether the decision holds for the request too."""
        if request.replayed and self.outcome is Outcome.REJECTED:
            return False
        return self.is_about(request) or self._came_after(request)

    def _came_after(self, request: WriteRequest) -> bool:
        if request.reply is None or not self.workflow_id or request.reply.workflow_id != self.workflow_id:
            return False
        return self.asked_ms is not None and request.asked_ms is not None and request.asked_ms < self.asked_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """The outcome of a request id."""

    queue: str
    request_id: str
    record_hash: str
    """Of the record that the outcome is about."""
    outcome: Outcome
    batch_id: str | None
    """None when the request was settled."""
    attempt: str | None
    """The attempt that got the outcome; None when no caller was known."""
    asked_ms: int | None
    """When it asked, in milliseconds since the epoch, by its own clock."""
    decisions: tuple[Decision, ...] = ()
    """The latest last; none in a row that is written."""
    floor_ms: int | None = None
    """No decision of an attempt that asked later than this has been dropped from `decisions`."""

    def answer(
        self, request: WriteRequest, *, batch_id: str | None = None, written_as: Outcome = Outcome.DUPLICATE
    ) -> WriteReceipt | None:
        """Return the receipt of a request with the same queue and id, or None when this row does not decide about it.

        `batch_id` is the batch that the request came with, None when it is settled. A record that is written already is
        answered with `written_as`.
        """
        if self.outcome is Outcome.WRITTEN:
            return self._answer_of_written(request, batch_id, written_as)
        binding = [decision for decision in self.decisions if decision.binds(request)]
        if binding:
            decision = max(binding, key=lambda one: one.is_about(request))
            error = decision.error
            if decision.outcome is Outcome.REJECTED and not self._is_about_record_of(request, decision):
                error = _conflict(request)
            return receipt_for(request, decision.outcome, batch_id=batch_id, error=error)
        # Its decision may be among the dropped ones. It is not written, and if that is told, it must stay true.
        if self.floor_ms is not None and request.reply is not None and (request.asked_ms or 0) <= self.floor_ms:
            return receipt_for(request, Outcome.WITHDRAWN, batch_id=batch_id)
        return None

    def _answer_of_written(self, request: WriteRequest, batch_id: str | None, written_as: Outcome) -> WriteReceipt:
        if self._was_written_by(request) or self.record_hash == request.record_hash:
            return receipt_for(request, written_as, batch_id=self.batch_id)
        return receipt_for(request, Outcome.REJECTED, batch_id=batch_id, error=_conflict(request))

    def _is_about_record_of(self, request: WriteRequest, decision: Decision) -> bool:
        return decision.is_about(request) or self.record_hash == request.record_hash

    def _was_written_by(self, request: WriteRequest) -> bool:
        """Whether the very call that makes the request wrote this row. A caller of another language may give all calls
        of a run one name: then it asked at another time, or did not say when.
        """
        if self.attempt is None or self.asked_ms is None:
            return False
        return (self.attempt, self.asked_ms) == (request.attempt, request.asked_ms)


def decided(
    request: WriteRequest,
    outcome: Outcome,
    *,
    queue: str,
    batch_id: str | None = None,
    error: str | None = None,
    earlier: LedgerRow | None = None,
) -> LedgerRow:
    """Return the ledger's row after `request` got `outcome`. `earlier` is the row until then, which did not decide."""
    decisions: tuple[Decision, ...] = ()
    floor_ms = None
    if outcome is not Outcome.WRITTEN:
        kept = [one for one in earlier.decisions if not one.is_about(request)] if earlier else []
        new = [Decision.of(request.reply, request.asked_ms, outcome, error)] if request.reply else []
        decisions, floor_ms = _latest([*kept, *new], earlier.floor_ms if earlier else None)
    return LedgerRow(
        queue=queue,
        request_id=request.request_id,
        record_hash=request.record_hash,
        outcome=outcome,
        batch_id=batch_id,
        attempt=request.attempt,
        asked_ms=storable_ms(request.asked_ms),
        decisions=decisions,
        floor_ms=floor_ms,
    )


def settled(
    request: WriteRequest, outcome: Outcome, *, error: str | None = None, earlier: LedgerRow
) -> tuple[LedgerRow | None, WriteReceipt]:
    """Return the row after a request is settled with `outcome`, withdrawn or rejected, and what its caller is told.
    None instead of a row: `earlier` stays as it is.

    Replays ignore rejections, and take the dead letters of those who wait for a replay or for nothing. Who withdraws a
    rejected request is told for good that it is not written: the rejection becomes a withdrawal, which replays obey.
    """
    receipt = earlier.answer(request, written_as=Outcome.WRITTEN)
    if receipt is None:
        row = decided(request, outcome, queue=earlier.queue, error=error, earlier=earlier)
        return row, receipt_for(request, outcome, error=error)
    may_be_replayed = request.reply is not None and (request.reply.awaits_replay or not request.reply.waits)
    is_rejection = receipt.outcome is Outcome.REJECTED and earlier.outcome is not Outcome.WRITTEN
    if outcome is Outcome.WITHDRAWN and is_rejection and may_be_replayed:
        return decided(request, outcome, queue=earlier.queue, error=receipt.error, earlier=earlier), receipt
    return None, receipt


def receipt_for(
    request: WriteRequest, outcome: Outcome, *, batch_id: str | None = None, error: str | None = None
) -> WriteReceipt:
    """Return a receipt about the record of this very request. One that nobody could decode has no hash."""
    return WriteReceipt(
        request_id=request.request_id,
        outcome=outcome,
        record_hash=request.record_hash or None,
        attempt=request.attempt,
        batch_id=batch_id,
        error=error,
    )


def storable_ms(asked_ms: int | None) -> int | None:
    """Return the time as a column of the ledger can hold it."""
    return None if asked_ms is None else min(asked_ms, LARGEST_INTEGER)


def expiry(now: datetime, deduplication_window: timedelta) -> datetime:
    """Return when a row that is written `now` may be forgotten.

    Who submits the id again within the window has an entry that may be written until it is `MAX_REQUEST_AGE` old: the
    row outlives it. `now` must be the latest of all clocks at hand.
    """
    return now + deduplication_window + MAX_REQUEST_AGE + EXPIRY_MARGIN


def _conflict(request: WriteRequest) -> str:
    return printable(
        f"Conflict: request id {request.request_id!r} was already used for another record; "
        "give each record its own request id."
    )


def check_storable(request: WriteRequest, queue: str) -> None:
    """Raise `InvalidRequest` when the ledger cannot hold the request."""
    reply = request.reply
    texts = f"{request.request_id}{reply.workflow_id}{reply.attempt}" if reply else request.request_id
    if texts.isascii() and len(texts) + len(queue.encode()) <= MAX_ID_BYTES and "\0" not in texts:
        return
    for name, value, limit in (
        ("request id", request.request_id, MAX_ID_BYTES - len(queue.encode())),
        ("workflow id", reply.workflow_id if reply else "", MAX_ID_BYTES),
        ("attempt", reply.attempt if reply else "", MAX_ID_BYTES),
    ):
        if not _is_storable(value, limit):
            raise InvalidRequest(
                f"The {name} {value[:80]!r} cannot be kept: use up to {limit} bytes of UTF-8 without NUL."
            )


def _latest(decisions: list[Decision], floor_ms: int | None) -> tuple[tuple[Decision, ...], int | None]:
    """The decisions that fit into a row, and the floor that stands for those that do not: the longest asked ago."""
    surplus = len(decisions) - MAX_DECISIONS
    if surplus <= 0:
        return tuple(decisions), floor_ms
    dropped = sorted(decisions, key=_age)[:surplus]
    kept = tuple(one for one in decisions if one not in dropped)
    return kept, max([floor_ms or 0, *map(_age, dropped)])


def _age(decision: Decision) -> int:
    return min(decision.asked_ms or 0, LARGEST_INTEGER)


def _is_storable(text: str, limit: int) -> bool:
    try:
        return len(text.encode()) <= limit and "\0" not in text
    except UnicodeEncodeError:
        return False
