"""Settling: the activity `settle_write` of the batcher's workers, which withdraws writes or learns their outcomes. What
it cannot settle now is offered again.
"""

import math
from dataclasses import dataclass, replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue

from write_batcher.models import Settled, Submission, WriteReceipt, batcher_task_queue
from write_batcher.workflows.activity_results import decoded_list, reason_of, timed_out
from write_batcher.workflows.alarms import Alarms
from write_batcher.workflows.enqueuing import summary_of
from write_batcher.workflows.inbox import accepts
from write_batcher.workflows.outbox import ATTEMPT_TIMEOUT, RETRY, SHORTEST_S, Outbox, Posting
from write_batcher.workflows.write_options import WriteOptions

MAX_REQUESTS = 100  # in one activity: each is a transaction
NO_ANSWER = "No batcher worker answered."
NO_RECEIPT = "The answer is not about this record."


@dataclass(eq=False, slots=True, kw_only=True)
class Settlement(Posting):
    """A write that is being settled, until it has a receipt or there is a reason why it has none."""

    lane: WriteOptions
    receipt: WriteReceipt | None = None
    failure: str | None = None
    settle_by: float = math.inf
    """Until when it is tried, in seconds since the epoch. Its time begins when it is sent first."""
    reason: str | None = None
    """Why it could not be settled when it was tried last."""

    @property
    def over(self) -> bool:
        return self.receipt is not None or self.failure is not None

    def settle(self, receipt: WriteReceipt) -> None:
        """Set the receipt."""
        self.receipt = receipt
        self.write.wake()

    def fail(self, reason: str) -> None:
        """Give up: there is no receipt."""
        self.failure = reason
        self.write.wake()


class Settling(Outbox[Settlement]):
    """Settles writes. Those that cannot be settled now are offered again until their time is over."""

    def __init__(self, alarms: Alarms) -> None:
        super().__init__(max_postings=MAX_REQUESTS, alarms=alarms)

    def _start(self, postings: list[Settlement]) -> "workflow.ActivityHandle[RawValue]":
        options, now = postings[0].lane, workflow.time()
        for posting in postings:
            posting.settle_by = min(posting.settle_by, now + options.settle_timeout.total_seconds())
        submission = Submission(
            queue=options.queue, requests=[replace(posting.write.request, record_hash="") for posting in postings]
        )
        return workflow.start_activity(
            "settle_write",
            submission,
            result_type=RawValue,
            task_queue=options.batcher_task_queue or batcher_task_queue(options.queue),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=timedelta(seconds=max(_end_of(postings) - now, SHORTEST_S)),
            retry_policy=RETRY,
            summary=summary_of(submission),
        )

    def _returned(self, postings: list[Settlement], result: RawValue) -> None:
        answers = decoded_list(result, Settled, len(postings)) or [Settled()] * len(postings)
        for posting, answer in zip(postings, answers, strict=True):
            write, receipt = posting.write, answer.receipt
            if receipt is not None and accepts(receipt, queue=write.queue, request=write.request):
                posting.settle(receipt)
            elif receipt is None and answer.reason is not None:
                posting.reason = answer.reason
                if not answer.asked:
                    self.post(posting)
                elif not self._offer_again(posting, until=posting.settle_by):
                    posting.fail(answer.reason)
            else:
                posting.fail(NO_RECEIPT)

    def _failed(self, postings: list[Settlement], error: Exception, *, sent: bool) -> None:
        for posting in postings:
            reason = reason_of(error, silence=posting.reason or NO_ANSWER)
            if timed_out(error) and posting.settle_by > _end_of(postings):
                # It went with one that had less time left.
                posting.reason = reason
                self.post(posting)
            else:
                posting.fail(reason)

    def _is_over(self, posting: Settlement) -> bool:
        if posting.settle_by <= workflow.time() and not posting.withdrawn:
            posting.fail(posting.reason or NO_ANSWER)
            return True
        return posting.withdrawn


def _end_of(postings: list[Settlement]) -> float:
    """Until when an activity tries to settle these."""
    return min(posting.settle_by for posting in postings)
