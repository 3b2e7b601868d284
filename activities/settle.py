"""Settling: withdraw writes, or learn their outcomes. For callers, but run by the batcher's workers, which reach the
database.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from temporalio import activity
from temporalio.exceptions import ApplicationError

from write_batcher.activities.queue_guard import check_queue
from write_batcher.errors import WrongSink
from write_batcher.models import QueueRef, Submission, WriteReceipt, WriteRequest
from write_batcher.queue.contract import Contract
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.protocol import Sink, identity_of

SETTLED_AT_ONCE = 8  # each takes a connection to the database


class SettleActivities:
    """Settles requests of one queue, through the ledger of its `sink`. `contract` returns the latest contract of the
    queue that is known.
    """

    def __init__(self, queue: QueueRef, sink: Sink, contract: Callable[[], Contract]) -> None:
        self._queue = queue
        self._sink = sink
        self._contract = contract
        self._slots = asyncio.Semaphore(SETTLED_AT_ONCE)

    @activity.defn
    async def settle_write(self, submission: Submission) -> list[WriteReceipt]:
        """Withdraw each request unless its outcome is decided already; returns one receipt for each, in order.

        `withdrawn` means that it was not written and, for this attempt, never will be. Fails, and is retried, while the
        database is unavailable. Fails with type `WrongSink`, not to be retried, when this worker's sink is not the
        queue's: its ledger knows nothing of the requests.
        """
        check_queue(submission.queue, served=self._queue.name)
        self._check_sink()
        return await asyncio.gather(*map(self._settle, submission.requests))

    async def _settle(self, request: WriteRequest) -> WriteReceipt:
        try:
            hashed = with_hash(request)
        except (TypeError, ValueError) as error:
            raise ApplicationError(
                f"The record of request {request.request_id!r} is not JSON: {error}.",
                type="InvalidRequest",
                non_retryable=True,
            ) from error
        async with self._slots:
            receipt = await self._sink.settle(hashed, queue=str(self._queue))
        return replace(receipt, queue=self._queue.name)

    def _check_sink(self) -> None:
        wanted = self._contract().sink_id
        own, _tables = identity_of(self._sink)
        if own != wanted:
            raise ApplicationError(
                f"Queue {str(self._queue)!r} is written to the sink {wanted!r}, and this worker's is {own!r}: stop "
                "this worker, or give it the database of the queue.",
                type=WrongSink.__name__,
                non_retryable=True,
            )
