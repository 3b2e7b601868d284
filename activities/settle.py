"""Caller side, run by the batcher's workers because they reach the database: give up a write, or learn its outcome."""

from temporalio import activity

from write_batcher.activities.sinks.protocol import Sink
from write_batcher.models import WriteReceipt, WriteRequest


class SettleActivities:
    """Settles through the ledger of `sink`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @activity.defn
    async def settle_write(self, request: WriteRequest) -> WriteReceipt:
        """`withdrawn` when the request had not been written: it never will be, for this attempt. Otherwise the outcome
        that stands already. Retried while the database cannot be asked.
        """
        return await self._sink.settle(request)
