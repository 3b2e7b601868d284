"""Caller side, run by the batcher's workers because they reach the database: give up a write, or learn its outcome."""

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
        """`withdrawn` when the request had not been written: it never will be, for this attempt. Otherwise the outcome
        that stands already. Retried while the database cannot be asked.
        """
        check_queue(submission.queue, served=self._queue)
        return await self._sink.settle(submission.request)
