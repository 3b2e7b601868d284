"""Third stage of the drain: gives callers their receipts, then removes the entries from the stream."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.deliver import Delivery, ReceiptSender
from write_batcher.activities.drain.progress import Progress
from write_batcher.errors import QueueUnavailable
from write_batcher.models import ConfirmBy, Outcome, ReplyAddress, WriteReceipt
from write_batcher.queue.stream import StreamEntry, WriteQueue

RETRY_FOR = timedelta(seconds=60)  # then the entries are left pending and taken again
BACKOFF = Backoff(0.5, 10.0)
BATCHES_AT_ONCE = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The receipt of one taken entry on its way to the caller; then the entry is acknowledged, or dead-lettered when
    it was refused.
    """

    entry: StreamEntry
    reply: ReplyAddress | None
    receipt: WriteReceipt
    undecodable: bool = False
    written_at: float = field(default_factory=time.monotonic)

    @property
    def counted_as(self) -> str:
        """The counter of its outcome."""
        return "dead" if self.undecodable else self.receipt.outcome.value


class Release(Protocol):
    """Told about entries whose way has ended; `redeliver`: they are still pending and must be taken again."""

    def __call__(self, entries: Iterable[StreamEntry], *, redeliver: bool) -> None: ...


class Confirmer:
    """Confirms and removes what has been written. One slow caller holds up nobody else."""

    def __init__(
        self,
        queue: WriteQueue,
        sender: ReceiptSender,
        release: Release,
        progress: Progress,
        stopping: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._release = release
        self._progress = progress
        self._stopping = stopping

    async def run(self, batches: "asyncio.Queue[list[Confirmation] | None]") -> None:
        """Confirmation batches until None comes, some of them at once."""
        slots = asyncio.Semaphore(BATCHES_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while answers := await batches.get():
                await slots.acquire()
                task = group.create_task(self._answer(answers, group))
                task.add_done_callback(lambda _: slots.release())

    async def _answer(self, answers: list[Confirmation], group: asyncio.TaskGroup) -> None:
        callers: dict[ReplyAddress, list[Confirmation]] = defaultdict(list)
        finished = []
        for answer in answers:
            if answer.reply is None or not answer.reply.waits:
                finished.append(answer)
            else:
                callers[one_caller(answer.reply)].append(answer)
        deliveries = await asyncio.gather(*(self._deliver(caller, theirs) for caller, theirs in callers.items()))
        for (caller, theirs), delivered in zip(callers.items(), deliveries, strict=True):
            if delivered:
                finished += theirs
            else:
                group.create_task(self._answer_later(caller, theirs))
        await self._finish(finished)

    async def _answer_later(self, caller: ReplyAddress, answers: list[Confirmation]) -> None:
        give_up = time.monotonic() + RETRY_FOR.total_seconds()
        failures = 0
        while time.monotonic() < give_up and not self._stopping.is_set():
            failures += 1
            await BACKOFF.wait(failures, self._stopping)
            if await self._deliver(caller, answers):
                return await self._finish(answers)
        logger.warning("caller %s could not be confirmed yet", caller)
        self._release((answer.entry for answer in answers), redeliver=True)
        return None

    async def _deliver(self, caller: ReplyAddress, answers: list[Confirmation]) -> bool:
        """Send one caller its receipts. True when that is final."""
        receipts = [
            replace(answer.receipt, confirm_ms=round((time.monotonic() - answer.written_at) * 1000))
            for answer in answers
        ]
        delivery = await self._sender.deliver(caller, receipts)
        if delivery is Delivery.UNKNOWN:
            self._progress.tally({"confirmations_retried": 1})
            return False
        if delivery is Delivery.DELIVERED:
            for answer in answers:
                self._progress.tally_latency("confirm", round((time.monotonic() - answer.written_at) * 1000))
        name = "confirmed" if delivery is Delivery.DELIVERED else "without_caller"
        self._progress.count(**{name: len(answers)})
        self._progress.tally({name: len(answers)})
        return True

    async def _finish(self, answers: list[Confirmation]) -> None:
        """Remove entries from the stream; the last step of each."""
        refused = [answer for answer in answers if answer.receipt.outcome is Outcome.REJECTED]
        done = [
            (answer.entry, answer.receipt.outcome.value)
            for answer in answers
            if answer.receipt.outcome is not Outcome.REJECTED
        ]
        redeliver = False
        try:
            if done:
                await self._queue.acknowledge(done)
            for answer in refused:
                await self._queue.dead_letter(answer.entry, answer.counted_as, answer.receipt.error or "")
                self._progress.count(dead=1)
        except QueueUnavailable as error:
            logger.warning("entries of %s could not be acknowledged: %s", self._queue.stream_key, error)
            redeliver = True
            # A Redis that answers reads but refuses this would otherwise have them written and confirmed in a loop.
            await BACKOFF.wait(1, self._stopping)
        self._release((answer.entry for answer in answers), redeliver=redeliver)


def one_caller(reply: ReplyAddress) -> ReplyAddress:
    """What replies to the same caller have in common: a signal finds the workflow whatever its run, and one signal
    carries the receipts of all attempts; an activity is completed on its own.
    """
    return replace(reply, run_id="", attempt="", call=0) if reply.mode is ConfirmBy.SIGNAL else reply
