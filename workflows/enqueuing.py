"""Appending requests to their queue by the activity `enqueue_write`; what it refuses for now is offered again."""

import math
from dataclasses import dataclass, replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue

from write_batcher.errors import WriteFailed
from write_batcher.models import Appended, ConfirmBy, Submission, WriteReceipt, WriteRequest
from write_batcher.workflows.activity_results import attempt_timed_out, decoded, decoded_list, reason_of, timed_out
from write_batcher.workflows.alarms import Alarm, Alarms
from write_batcher.workflows.awaited_write import Write
from write_batcher.workflows.inbox import accepts
from write_batcher.workflows.outbox import ATTEMPT_TIMEOUT, RETRY, SHORTEST_S, Outbox, Posting
from write_batcher.workflows.write_options import OnRejected, WriteOptions

MAX_REQUESTS = 500  # in one activity
MAX_SUMMARY_BYTES = 200  # Temporal allows 400, encoded
NO_ANSWER = (
    "The append did not answer: look at Redis and at the workers of this workflow's task queue, which need the plugin "
    "WriteBatching."
)
NO_RESULT = Appended(refused="The append was completed with something else than its result.", certain=False)
UNDER_WAY = "This workflow had too much under way to send it."
# An attempt that stays open waits for the receipt. One that got none is repeated by `submit`, not by Temporal.
RETRY_BEFORE_APPEND = replace(RETRY, non_retryable_error_types=["TemporalTimeout:StartToClose"])


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueLane:
    """What the requests of one activity have in common."""

    options: WriteOptions
    unless_dead: bool = False

    @property
    def may_stay_open(self) -> bool:
        """Whether an activity may wait for its receipt. The receipt of a replay comes by signal, and the reply address
        of a request that waits for one must be the same every time.
        """
        return self.options.on_rejected is OnRejected.FAIL


@dataclass(eq=False, slots=True, kw_only=True)
class Append(Posting):
    """A request on its way to the queue, until `answer` is known. Times are seconds since the epoch."""

    lane: EnqueueLane
    append_by: float
    receipt_by: float
    """Until when the activity stays open under `ConfirmBy.COMPLETION`."""
    answer: Appended | None = None
    stays_open: bool = False
    """Whether its activity is completed with the receipt."""
    waited: bool = False
    """Whether its activity has stayed open in vain for as long as a receipt is waited for."""
    tried_until: float = 0.0
    invalid: WriteFailed | None = None
    """Why the request cannot be sent at all."""

    @property
    def is_open(self) -> bool:
        """Whether there is no answer yet."""
        return self.answer is None and self.invalid is None

    def tell(self, answer: Appended) -> None:
        """Set the answer."""
        self.answer = answer
        if answer.refused is not None:
            self.write.refused(answer.refused, certain=answer.certain)
        self.write.wake()


class Enqueuing(Outbox[Append]):
    """Appends requests. Those that are refused for now are offered again until their time is over."""

    def __init__(self, alarms: Alarms) -> None:
        super().__init__(max_postings=MAX_REQUESTS, alarms=alarms)
        self._next_expiry: Alarm | None = None

    def _start(self, postings: list[Append]) -> "workflow.ActivityHandle[RawValue]":
        lane, now = postings[0].lane, workflow.time()
        options = lane.options
        mode = options.confirm_by
        if mode is ConfirmBy.COMPLETION and not (lane.may_stay_open and len(postings) == 1 and self.half_empty):
            mode = ConfirmBy.SIGNAL
        by_completion = mode is ConfirmBy.COMPLETION
        waits = mode is not ConfirmBy.NONE and not lane.unless_dead
        submission = Submission(
            queue=options.queue,
            requests=[_request(posting.write, mode) for posting in postings],
            confirm_timeout_ms=math.ceil(options.confirm_timeout / timedelta(milliseconds=1)) if waits else None,
            unless_dead=lane.unless_dead,
        )
        end = postings[0].receipt_by if by_completion else min(posting.append_by for posting in postings)
        for posting in postings:
            posting.stays_open = by_completion
            posting.tried_until = end
        return workflow.start_activity(
            "enqueue_write",
            submission,
            result_type=RawValue,
            start_to_close_timeout=options.confirm_timeout / 2 if by_completion else ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=timedelta(seconds=max(end - now, SHORTEST_S)),
            retry_policy=RETRY_BEFORE_APPEND if by_completion else RETRY,
            summary=summary_of(submission),
        )

    def _returned(self, postings: list[Append], result: RawValue) -> None:
        if postings[0].stays_open and (receipt := decoded(result, WriteReceipt)) is not None:
            write = postings[0].write
            if accepts(receipt, queue=write.queue, request=write.request):
                write.take(receipt)
                return
        answers = decoded_list(result, Appended, len(postings)) or [NO_RESULT] * len(postings)
        for posting, answer in zip(postings, answers, strict=True):
            is_one = answer.entry is not None or answer.refused is not None or answer.dead
            self._answered(posting, answer if is_one else NO_RESULT)

    def _answered(self, posting: Append, answer: Appended) -> None:
        if answer.refused is not None and answer.later:
            posting.write.refused(answer.refused, certain=answer.certain)
            if self._offer_again(posting, until=posting.append_by):
                return
        posting.tell(answer)

    def _failed(self, postings: list[Append], error: Exception, *, sent: bool) -> None:
        reason = reason_of(error, silence=NO_ANSWER)
        for posting in postings:
            if isinstance(error, WriteFailed):
                posting.invalid = error
                posting.write.wake()
            elif posting.stays_open and attempt_timed_out(error):
                posting.waited = True
                posting.tell(Appended(entry=""))
            elif timed_out(error) and posting.append_by > posting.tried_until:
                # It went with one that had less time left.
                posting.write.refused(reason, certain=False)
                self.post(posting)
            else:
                posting.tell(Appended(refused=reason, later=timed_out(error), certain=not sent))

    def _is_over(self, posting: Append) -> bool:
        if posting.append_by <= workflow.time() and not posting.withdrawn:
            posting.tell(Appended(refused=UNDER_WAY, later=True))
            return True
        return posting.withdrawn

    def _flushed(self, waiting: list[Append]) -> None:
        if self._next_expiry is not None:
            self._next_expiry.switch_off()
        if waiting:
            self._next_expiry = self.alarms.set(min(posting.append_by for posting in waiting), self._flush_soon)


def _request(write: Write, mode: ConfirmBy) -> WriteRequest:
    reply = write.request.reply
    return replace(write.request, record_hash="", reply=replace(reply, mode=mode) if reply else None)


def summary_of(submission: Submission) -> str:
    """What the Web UI of Temporal shows beside the activity."""
    tables = ", ".join(dict.fromkeys(request.table for request in submission.requests))
    count = len(submission.requests)
    text = tables if count == 1 else f"{count} for {tables}"
    return text.encode("ascii", "backslashreplace")[:MAX_SUMMARY_BYTES].decode()
