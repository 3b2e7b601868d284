"""The sink as the writer sees it: limits in time, checked answers, and an answer also when the sink fails."""

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from write_batcher.activities.drain.answers import Answer, Failed, checked_answers, checked_receipt
from write_batcher.activities.drain.batch_log import log_batch
from write_batcher.activities.drain.items import ClosedBatch, DecodedEntry, RetryBatch
from write_batcher.activities.drain.outage import Outage
from write_batcher.activities.drain.pacer import Pacer
from write_batcher.activities.drain.part_size import PartSize
from write_batcher.activities.drain.progress import Progress
from write_batcher.activities.drain.receipt_text import printable, reason_of
from write_batcher.activities.drain.watch import Watch
from write_batcher.errors import BatchTooLarge, SinkUnavailable
from write_batcher.models import Batch, Held, PartitionRef, QueueRef, WriteReceipt
from write_batcher.sinks.protocol import Sink
from write_batcher.sinks.shielding import shielded

WRITE_LIMIT = timedelta(seconds=60)  # for one attempt; databases give up earlier by themselves
GIVE_UP_WITHIN = timedelta(seconds=5)  # a cancelled write that takes longer is abandoned

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Stopped(Exception):
    """The drain was stopped while the sink was away, or long before its turn: what is not written stays pending."""


class Target:
    """What the entries of one partition are written to."""

    def __init__(
        self,
        partition: PartitionRef,
        ref: QueueRef,
        sink: Sink,
        watch: Watch,
        progress: Progress,
        pacer: Pacer,
        outage: Outage,
        stopping: asyncio.Event,
    ) -> None:
        self._partition = partition
        self._ref = ref
        self._sink = sink
        self._watch = watch
        self._progress = progress
        self._pacer = pacer
        self._outage = outage
        self._stopping = stopping
        self._size = PartSize()

    async def turn(self, size: int) -> int:
        """Wait until a transaction may begin; return how many of so many requests may be written in it. Raises
        `Stopped` when the drain is stopped and that would take too long.
        """
        if not await self._pacer.turn(self._stopping):
            raise Stopped
        return self._outage.limit(self._size.limit(self._pacer.limit(size)))

    async def write(
        self, items: Sequence[DecodedEntry], closed: ClosedBatch | RetryBatch
    ) -> dict[DecodedEntry, Answer] | None:
        """Write requests in one transaction, whose `turn` it is; return the answer about each.

        Returns None when nothing has been written and what is to be written has to be looked at again: the sink was
        away, and this has waited; or there were too many at once, and the limit is lower now. Raises `Stopped` when
        the drain is stopped while the sink is away.
        """
        if not items:
            return {}
        try:
            answers = await self._answers(items, closed)
        except SinkUnavailable as error:
            await self._wait(error)
            return None
        except BatchTooLarge as error:
            logger.warning("%d requests of %s are too many at once: %s", len(items), self._partition, error)
            self._size.too_large(len(items))
            return None
        self._size.written(len(items))
        return dict(zip(items, answers, strict=True))

    async def _answers(self, items: Sequence[DecodedEntry], closed: ClosedBatch | RetryBatch) -> list[Answer]:
        batch = Batch(
            batch_id=f"{self._partition}/{int(time.time() * 1000):x}-{secrets.token_hex(2)}",
            queue=str(self._ref),
            flush_reason=closed.reason,
            requests=tuple(item.request for item in items),
        )
        self._pacer.begun(len(items))
        started = asyncio.get_running_loop().time()
        try:
            async with self._outage.trying():
                with self._watch.step("writing a batch", WRITE_LIMIT):
                    answers = checked_answers(self._sink, batch, await self._shielded(self._sink.write(batch)))
        except SinkUnavailable:
            raise
        except BatchTooLarge as error:
            self._pacer.ended(len(items), asyncio.get_running_loop().time() - started)
            if len(items) > 1:
                raise
            return [Held(request_id=batch.requests[0].request_id, reason=printable(str(error)))]
        except (Exception, asyncio.CancelledError) as error:  # a defect of the sink
            _raise_own_cancellation(error)
            logger.warning("batch %s of %d requests: the sink has failed", batch.batch_id, len(items), exc_info=True)
            return [Failed(reason_of(error))] * len(items)
        await self._answered()
        seconds = asyncio.get_running_loop().time() - started
        self._pacer.ended(len(items), seconds)
        write_ms = round(seconds * 1000)
        self._report(batch, [answer for answer in answers if isinstance(answer, WriteReceipt)], write_ms)
        self._tally_queued(items, answers, closed)
        return [
            self._completed(item, answer, closed, batch_size=len(items), write_ms=write_ms)
            for item, answer in zip(items, answers, strict=True)
        ]

    async def settle(self, item: DecodedEntry, reason: str) -> WriteReceipt | None:
        """Reject a request for that reason, unless it is decided already. Returns None when the sink fails at that.

        Raises `Stopped` as `turn` does, and when the drain is stopped while the sink is away.
        """
        request = item.request
        while True:
            await self.turn(1)
            self._pacer.begun(1)
            try:
                async with self._outage.trying():
                    with self._watch.step("settling an entry", WRITE_LIMIT):
                        settling = self._sink.settle(request, queue=str(self._ref), refused=reason)
                        receipt = checked_receipt(self._sink, request, await self._shielded(settling))
            except SinkUnavailable as error:
                await self._wait(error)
            except (Exception, asyncio.CancelledError) as error:  # a defect of the sink
                _raise_own_cancellation(error)
                logger.exception("entry %s of %s cannot be settled", item.entry.entry_id, self._partition)
                return None
            else:
                await self._answered()
                self._progress.count(**{receipt.outcome.value: 1})
                return self._addressed(item, receipt)

    async def _wait(self, error: SinkUnavailable) -> None:
        """Wait before the next try of whatever the sink could not do. Raises `Stopped` when the drain is stopped."""
        self._progress.holding = printable(str(error))
        tried = self._outage.failures + 1
        logger.warning("%s waits for its sink, tried %d times: %s", self._partition, tried, error)
        if not await self._outage.wait():
            raise Stopped

    async def _answered(self) -> None:
        self._progress.holding = None
        await self._outage.over()

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        # A commit that has begun cannot be taken back, so it is awaited; but not for ever, or a hung one would keep the
        # drain from failing or stopping.
        return await shielded(work, within=GIVE_UP_WITHIN)

    def _completed(
        self,
        item: DecodedEntry,
        answer: WriteReceipt | Held,
        closed: ClosedBatch | RetryBatch,
        *,
        batch_size: int,
        write_ms: int,
    ) -> Answer:
        if isinstance(answer, Held):
            return replace(answer, reason=printable(answer.reason))
        if answer.error is None and (item.request.reply is None or not item.request.reply.waits):
            return answer  # nobody will see more than the outcome
        return self._addressed(
            item,
            answer,
            batch_size=batch_size,
            flush_reason=closed.reason,
            queued_ms=_queued_ms(item, closed),
            write_ms=write_ms,
        )

    def _addressed(self, item: DecodedEntry, receipt: WriteReceipt, **known: Any) -> WriteReceipt:
        """The receipt as the caller of this request takes it, with what else is `known`."""
        # Not by `replace`, which takes twice as long.
        return WriteReceipt(
            request_id=receipt.request_id,
            outcome=receipt.outcome,
            batch_id=receipt.batch_id,
            queue=self._partition.queue,
            attempt=item.request.attempt,
            record_hash=item.request.record_hash,
            error=None if receipt.error is None else printable(receipt.error),
            **known,
        )

    def _report(self, batch: Batch, receipts: list[WriteReceipt], write_ms: int) -> None:
        held = len(batch.requests) - len(receipts)
        outcomes = log_batch(logger, batch.batch_id, batch.flush_reason, receipts, write_ms, held=held)
        if not receipts:
            return
        self._progress.count(batches=1, **outcomes)
        self._progress.tally({f"batches_{batch.flush_reason.value}": 1, "batched": len(receipts)})
        self._progress.tally_latency("write", write_ms)

    def _tally_queued(
        self,
        items: Sequence[DecodedEntry],
        answers: Sequence[WriteReceipt | Held],
        closed: ClosedBatch | RetryBatch,
    ) -> None:
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, WriteReceipt):
                self._progress.tally_latency("queued", _queued_ms(item, closed))


def _queued_ms(item: DecodedEntry, closed: ClosedBatch | RetryBatch) -> int:
    return max(closed.closed_ms - item.entry.entry_ms, 0)


def _raise_own_cancellation(error: BaseException) -> None:
    """Raise a cancellation of this drain; one that the sink made up is a defect like any other."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
