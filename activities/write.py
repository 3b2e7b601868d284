"""Second stage of the drain: writes closed batches, one transaction each, and holds a batch through an outage."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from write_batcher.activities.answer import Answer
from write_batcher.activities.backoff import Backoff
from write_batcher.activities.progress import Progress
from write_batcher.activities.sinks.protocol import Sink
from write_batcher.activities.take import ClosedBatch
from write_batcher.activities.watch import Watch
from write_batcher.errors import SinkContractBroken, SinkUnavailable
from write_batcher.models import Batch, Outcome, PartitionRef, WriteReceipt

WRITE_LIMIT = timedelta(seconds=60)  # of one attempt; databases give up earlier by themselves
GIVE_UP_WITHIN = timedelta(seconds=10)  # how long a cancelled write may take to end
BACKOFF = Backoff(0.2, 15.0)
MAX_ERROR_CHARS = 500  # a confirmation must stay tiny

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Writer:
    """Writes the batches of one partition, one after the other."""

    def __init__(
        self, partition: PartitionRef, sink: Sink, watch: Watch, progress: Progress, stopping: asyncio.Event
    ) -> None:
        self._partition = partition
        self._sink = sink
        self._watch = watch
        self._progress = progress
        self._stopping = stopping

    async def write(self, closed: ClosedBatch) -> list[Answer] | None:
        """Answers to all requests of a committed batch; None when the drain was stopped before it could be written.

        Raises SinkContractBroken.
        """
        batch = Batch(
            batch_id=f"{self._partition}/{int(time.time() * 1000):x}-{secrets.token_hex(2)}",
            flush_reason=closed.reason,
            requests=tuple(taken.request for taken in closed.items),
        )
        receipts = await self._receipts(batch)
        if receipts is None:
            return None
        return [
            Answer(entry=taken.entry, reply=taken.request.reply, receipt=receipt)
            for taken, receipt in zip(closed.items, receipts, strict=True)
        ]

    async def _receipts(self, batch: Batch) -> list[WriteReceipt] | None:
        for failures in itertools.count(1):
            started = time.monotonic()
            try:
                with self._watch.step("writing a batch", WRITE_LIMIT):
                    receipts = await _to_its_end(self._sink.write(batch))
            except SinkUnavailable as error:
                self._progress.holding = str(error)
                logger.warning("batch %s is held, tried %d times: %s", batch.batch_id, failures, error)
                if self._stopping.is_set():
                    break
                await BACKOFF.wait(failures, self._stopping)
            else:
                self._progress.holding = None
                self._check_contract(batch, receipts)
                self._report(batch, receipts, write_ms=round((time.monotonic() - started) * 1000))
                return [
                    replace(
                        receipt,
                        batch_size=len(receipts),
                        flush_reason=batch.flush_reason,
                        error=shortened(receipt.error),
                    )
                    for receipt in receipts
                ]
        return None

    def _check_contract(self, batch: Batch, receipts: list[WriteReceipt]) -> None:
        if [receipt.request_id for receipt in receipts] != [request.request_id for request in batch.requests]:
            raise SinkContractBroken(
                f"{type(self._sink).__name__} must return one receipt per request, in order: batch {batch.batch_id}"
            )

    def _report(self, batch: Batch, receipts: list[WriteReceipt], *, write_ms: int) -> None:
        outcomes = {outcome.value: sum(receipt.outcome is outcome for receipt in receipts) for outcome in Outcome}
        self._progress.count(batches=1, **outcomes)
        logger.info(
            "batch %s: %d requests (%s) in %d ms, %s",
            batch.batch_id,
            len(receipts),
            batch.flush_reason.value,
            write_ms,
            ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items() if number),
            extra={
                "batch": {
                    "batch_id": batch.batch_id,
                    "size": len(receipts),
                    "flush_reason": batch.flush_reason.value,
                    "write_ms": write_ms,
                    **outcomes,
                }
            },
        )


def shortened(error: str | None) -> str | None:
    """An error that fits into a confirmation."""
    return None if error is None else error[:MAX_ERROR_CHARS]


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await `work` even when cancelled meanwhile: a commit that has begun cannot be taken back. One that hangs is
    given up, or the drain could neither fail nor stop.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=GIVE_UP_WITHIN.total_seconds())
        task.cancel()
        raise
