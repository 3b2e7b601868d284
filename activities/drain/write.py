"""The second stage of the drain: writes each closed batch in one transaction, and holds it through an outage."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.batch_log import log_batch
from write_batcher.activities.drain.batching import DecodedEntry
from write_batcher.activities.drain.confirm import Confirmation
from write_batcher.activities.drain.progress import Progress
from write_batcher.activities.drain.take import ClosedBatch
from write_batcher.activities.drain.watch import Watch
from write_batcher.errors import QueueUnavailable, SinkContractBroken, SinkUnavailable
from write_batcher.models import Batch, PartitionRef, WriteReceipt
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.protocol import Sink
from write_batcher.sinks.shielding import shielded

WRITE_LIMIT = timedelta(seconds=60)  # for one attempt; databases give up earlier by themselves
MAX_DEATHS_ALONE = 7  # drains that may end while writing an entry alone; then it is given up as a poison record
GIVE_UP_WITHIN = timedelta(seconds=10)  # a cancelled write that takes longer is abandoned
BACKOFF = Backoff(0.2, 15.0)
MAX_ERROR_CHARS = 500  # a confirmation must stay tiny

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Writer:
    """Writes the batches of one partition, one after the other."""

    def __init__(
        self,
        partition: PartitionRef,
        queue: WriteQueue,
        sink: Sink,
        watch: Watch,
        progress: Progress,
        stopping: asyncio.Event,
    ) -> None:
        self._partition = partition
        self._queue = queue
        self._sink = sink
        self._watch = watch
        self._progress = progress
        self._stopping = stopping

    async def write(self, closed: ClosedBatch) -> list[Confirmation] | None:
        """Write a batch; returns the confirmations of all its requests, or None when it is left pending, because the
        drain was stopped first or its only entry cannot be written alone right now.

        Raises `SinkContractBroken` when the sink does not return one receipt per request, in order.
        """
        batch = Batch(
            batch_id=f"{self._partition}/{int(time.time() * 1000):x}-{secrets.token_hex(2)}",
            flush_reason=closed.reason,
            requests=tuple(item.request for item in closed.items),
        )
        alone = closed.items[0] if closed.alone else None
        try:
            if alone and await self._queue.deaths_alone(alone.entry) >= MAX_DEATHS_ALONE:
                return [await self._give_up(alone)]
            written = await self._write_through_outages(batch, alone)
        except (QueueUnavailable, SinkUnavailable) as error:
            logger.warning("entry %s cannot be written alone now: %s", closed.items[0].entry.entry_id, error)
            await BACKOFF.wait(3, self._stopping)
            return None
        if written is None:
            return None
        receipts, write_ms = written
        for item in closed.items:
            self._progress.tally_latency("queued", closed.queued_ms(item))
        return [
            Confirmation(
                entry=item.entry,
                reply=item.request.reply,
                receipt=replace(
                    receipt,
                    queue=self._partition.queue,
                    attempt=item.request.attempt,
                    batch_size=len(receipts),
                    flush_reason=closed.reason,
                    error=shortened(receipt.error),
                    queued_ms=closed.queued_ms(item),
                    write_ms=write_ms,
                ),
            )
            for item, receipt in zip(closed.items, receipts, strict=True)
        ]

    async def _try_once(self, batch: Batch, alone: DecodedEntry | None) -> list[WriteReceipt]:
        """Write the batch. An entry that is written alone is marked before and unmarked after, so that the marks count
        the processes that ended in between.
        """
        if alone is None:
            return await self._shielded(self._sink.write(batch))
        await self._queue.begin_alone(alone.entry)
        try:
            receipts = await self._shielded(self._sink.write(batch))
        except SinkUnavailable:
            await self._queue.end_alone(alone.entry)
            raise
        # Any other error of the sink ends this drain like a crash, and counts as one.
        await self._queue.end_alone(alone.entry)
        return receipts

    async def _give_up(self, poison: DecodedEntry) -> Confirmation:
        """Reject a poison record, unless the ledger knows that one of the drains had committed it before it ended."""
        reason = f"Writing this record alone has ended {MAX_DEATHS_ALONE} drains."
        with self._watch.step("settling an entry", WRITE_LIMIT):
            receipt = await self._shielded(self._sink.settle(poison.request, refused=reason))
        logger.error("entry %s is given up, outcome %s: %s", poison.entry.entry_id, receipt.outcome.value, reason)
        return Confirmation(
            entry=poison.entry,
            reply=poison.request.reply,
            receipt=replace(receipt, queue=self._partition.queue, attempt=poison.request.attempt),
        )

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        # A commit that has begun cannot be taken back, so it is awaited; but not for ever, or a hung one would keep the
        # drain from failing or stopping.
        return await shielded(work, within=GIVE_UP_WITHIN)

    async def _write_through_outages(
        self, batch: Batch, alone: DecodedEntry | None
    ) -> tuple[list[WriteReceipt], int] | None:
        """The receipts of the batch and the milliseconds of its transaction; None when the drain is stopped first."""
        for failures in itertools.count(1):
            started = time.monotonic()
            try:
                with self._watch.step("writing a batch", WRITE_LIMIT):
                    receipts = await self._try_once(batch, alone)
            except SinkUnavailable as error:
                self._progress.holding = str(error)
                logger.warning("batch %s is held, tried %d times: %s", batch.batch_id, failures, error)
                if self._stopping.is_set():
                    break
                await BACKOFF.wait(failures, self._stopping)
            else:
                self._progress.holding = None
                self._check_contract(batch, receipts)
                write_ms = round((time.monotonic() - started) * 1000)
                self._report(batch, receipts, write_ms)
                return receipts, write_ms
        return None

    def _check_contract(self, batch: Batch, receipts: list[WriteReceipt]) -> None:
        if [receipt.request_id for receipt in receipts] != [request.request_id for request in batch.requests]:
            raise SinkContractBroken(
                f"{type(self._sink).__name__} must return one receipt per request, in order, and did not for batch "
                f"{batch.batch_id}."
            )

    def _report(self, batch: Batch, receipts: list[WriteReceipt], write_ms: int) -> None:
        outcomes = log_batch(logger, batch.batch_id, batch.flush_reason, receipts, write_ms)
        self._progress.count(batches=1, **outcomes)
        self._progress.tally({f"batches_{batch.flush_reason.value}": 1, "batched": len(receipts)})
        self._progress.tally_latency("write", write_ms)


def shortened(error: str | None) -> str | None:
    """Cut an error to what fits into a confirmation."""
    return None if error is None else error[:MAX_ERROR_CHARS]
