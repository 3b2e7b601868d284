"""Settling: the activity `settle_write` of the batcher's workers, which withdraws writes or learns their outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from temporalio import workflow
from temporalio.common import RawValue

from write_batcher.models import Submission, WriteReceipt, batcher_task_queue
from write_batcher.workflows.activity_results import decoded_list, reason_of
from write_batcher.workflows.enqueuing import summary_of
from write_batcher.workflows.inbox import accepts
from write_batcher.workflows.outbox import ATTEMPT_TIMEOUT, RETRY, Outbox, Posting
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

    @property
    def over(self) -> bool:
        return self.receipt is not None or self.failure is not None


class Settling(Outbox[Settlement]):
    """Settles writes."""

    def __init__(self) -> None:
        super().__init__(max_postings=MAX_REQUESTS)

    def _start(self, postings: list[Settlement]) -> "workflow.ActivityHandle[RawValue]":
        options = postings[0].lane
        submission = Submission(
            queue=options.queue, requests=[replace(posting.write.request, record_hash="") for posting in postings]
        )
        return workflow.start_activity(
            "settle_write",
            submission,
            result_type=RawValue,
            task_queue=options.batcher_task_queue or batcher_task_queue(options.queue),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=options.settle_timeout,
            retry_policy=RETRY,
            summary=summary_of(submission),
        )

    def _returned(self, postings: list[Settlement], result: RawValue) -> None:
        receipts: Sequence[WriteReceipt | None] = decoded_list(result, WriteReceipt, len(postings)) or [None] * len(
            postings
        )
        for posting, receipt in zip(postings, receipts, strict=True):
            write = posting.write
            if receipt is not None and accepts(receipt, queue=write.queue, request=write.request):
                posting.receipt = receipt
            else:
                posting.failure = NO_RECEIPT
            write.wake()

    def _failed(self, postings: list[Settlement], error: Exception, *, sent: bool) -> None:
        for posting in postings:
            posting.failure = reason_of(error, silence=NO_ANSWER)
            posting.write.wake()
