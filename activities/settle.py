"""Settling: withdraw a write, or learn its outcome. For callers, but run by the batcher's workers, which reach the
database.
"""

from temporalio import activity

from write_batcher.activities.queue_guard import check_queue
from write_batcher.models import Submission, WriteReceipt
from write_batcher.sinks.protocol import Sink


class SettleActivities:
    """Settles requests of one queue, through the ledger of its `sink`."""

    def __init__(self, queue: str, sink: Sink) -> None:
        self._queue = queue
        self._sink = sink

    @activity.defn
    async def settle_write(self, submission: Submission) -> WriteReceipt:
        """Withdraw the request unless its outcome is decided already; returns the receipt.

        `withdrawn` means that it was not written and, for this attempt, never will be. Fails, and is retried, while the
        database is unavailable.
        """
        check_queue(submission.queue, served=self._queue)
        return await self._sink.settle(submission.request)
