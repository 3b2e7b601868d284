"""The fourth stage of the drain: confirms to the callers, then removes the entries from the stream."""

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.bell import Bell
from write_batcher.activities.drain.items import DecodedEntry
from write_batcher.activities.drain.lane import Lane
from write_batcher.activities.drain.progress import Progress
from write_batcher.activities.drain.receipt_sender import SLOW_AFTER, Delivery, ReceiptSender
from write_batcher.errors import QueueUnavailable
from write_batcher.models import ConfirmBy, Outcome, ReplyAddress, WriteReceipt
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import StreamEntry

RETRY_FOR = timedelta(seconds=60)  # then the entries stay pending and are taken again
BACKOFF = Backoff(0.5, 10.0)
BATCHES_AT_ONCE = 4
MOST_SLOW = 5_000  # confirmations of slow callers in hand; beyond, batches wait

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Confirmation:
    """A receipt to be sent for an entry. The entry is then acknowledged, or moved to the dead letters if rejected."""

    entry: StreamEntry
    reply: ReplyAddress | None
    """None when nobody is to be told."""
    receipt: WriteReceipt
    written_at: float
    """By the loop's clock."""
    undecided: bool = False
    """Whether nobody knows what became of the request."""

    @classmethod
    def of(cls, decoded: DecodedEntry, receipt: WriteReceipt) -> Self:
        """The receipt of an entry, for its caller."""
        now = asyncio.get_running_loop().time()
        return cls(entry=decoded.entry, reply=decoded.request.reply, receipt=receipt, written_at=now)

    @classmethod
    def of_dead_letter(cls, entry: StreamEntry, error: str) -> Self:
        """An entry that becomes a dead letter although nobody can say what became of its request."""
        request_id = entry.request_id.decode(errors="backslashreplace")
        receipt = WriteReceipt(request_id=request_id, outcome=Outcome.REJECTED, error=error)
        now = asyncio.get_running_loop().time()
        return cls(entry=entry.without_fields(), reply=None, receipt=receipt, undecided=True, written_at=now)

    @property
    def age_ms(self) -> int:
        """Milliseconds since the entry was written."""
        return round((asyncio.get_running_loop().time() - self.written_at) * 1000)

    @property
    def counted_as(self) -> str:
        """The counter that the entry is counted under."""
        return "dead" if self.undecided else self.receipt.outcome.value


class Confirmer:
    """Confirms and removes what has been written. A slow caller holds up nobody else."""

    def __init__(
        self,
        queue: WriteQueue,
        sender: ReceiptSender,
        lane: Lane,
        limits: BatchLimits,
        progress: Progress,
        stopping: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._lane = lane
        self._limits = limits
        self._progress = progress
        self._stopping = stopping
        self._slow = 0
        self._bell = Bell()

    async def run(self, batches: "asyncio.Queue[list[Confirmation] | None]") -> None:
        """Confirm batches until None arrives, `BATCHES_AT_ONCE` of them at a time."""
        slots = asyncio.Semaphore(BATCHES_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while confirmations := await batches.get():
                await slots.acquire()
                task = group.create_task(self._confirm(confirmations, group))
                task.add_done_callback(lambda _: slots.release())

    async def _confirm(self, confirmations: list[Confirmation], group: asyncio.TaskGroup) -> None:
        callers: dict[ReplyAddress, list[Confirmation]] = defaultdict(list)
        finished = []
        for confirmation in confirmations:
            if confirmation.reply is None or not confirmation.reply.waits:
                finished.append(confirmation)
            else:
                callers[_caller_of(confirmation.reply)].append(confirmation)
        deliveries = {
            group.create_task(self._deliver(caller, theirs)): (caller, theirs) for caller, theirs in callers.items()
        }
        prompt = [delivery for delivery, (caller, _) in deliveries.items() if not self._sender.is_troubled(caller)]
        if prompt:
            await asyncio.wait(prompt, timeout=SLOW_AFTER.total_seconds())
        for delivery, (caller, theirs) in deliveries.items():
            if delivery.done() and delivery.result():
                finished += theirs
            else:
                self._slow += len(theirs)
                group.create_task(self._confirm_slow(delivery, caller, theirs))
        await self._finish(finished)
        while self._slow > MOST_SLOW:
            await self._bell.wait()

    async def _confirm_slow(
        self, delivery: "asyncio.Task[bool]", caller: ReplyAddress, confirmations: list[Confirmation]
    ) -> None:
        try:
            if await delivery:
                await self._finish(confirmations)
            else:
                await self._confirm_later(caller, confirmations)
        finally:
            self._slow -= len(confirmations)
            self._bell.ring()

    async def _confirm_later(self, caller: ReplyAddress, confirmations: list[Confirmation]) -> None:
        give_up = asyncio.get_running_loop().time() + RETRY_FOR.total_seconds()
        failures = 0
        while asyncio.get_running_loop().time() < give_up and not self._stopping.is_set():
            failures += 1
            await BACKOFF.wait(failures, self._stopping)
            if await self._deliver(caller, confirmations):
                return await self._finish(confirmations)
        logger.warning("caller %s could not be confirmed yet", caller)
        self._lane.release((confirmation.entry for confirmation in confirmations), redeliver=True)
        return None

    async def _deliver(self, caller: ReplyAddress, confirmations: list[Confirmation]) -> bool:
        """Send one caller its receipts. True when the result is final."""
        receipts = [replace(confirmation.receipt, confirm_ms=confirmation.age_ms) for confirmation in confirmations]
        delivery = await self._sender.deliver(caller, receipts)
        if delivery is Delivery.UNKNOWN:
            self._progress.tally({"confirmations_retried": 1})
            return False
        if delivery is Delivery.DELIVERED:
            for confirmation in confirmations:
                self._progress.tally_latency("confirm", confirmation.age_ms)
        name = "confirmed" if delivery is Delivery.DELIVERED else "without_caller"
        self._progress.count(**{name: len(confirmations)})
        self._progress.tally({name: len(confirmations)})
        return True

    async def _finish(self, confirmations: list[Confirmation]) -> None:
        """Remove the entries from the stream, the last step."""
        rejected = [one for one in confirmations if one.receipt.outcome is Outcome.REJECTED]
        done = [
            (one.entry, one.receipt.outcome.value)
            for one in confirmations
            if one.receipt.outcome is not Outcome.REJECTED
        ]
        redeliver = False
        try:
            if done:
                await self._queue.acknowledge(done)
            for one in rejected:
                await self._queue.dead_letter(
                    one.entry, one.counted_as, one.receipt.error or "", max_letters=self._limits.max_dead_letters
                )
                self._progress.count(dead=1)
        except QueueUnavailable as error:
            logger.warning("entries of %s could not be acknowledged: %s", self._queue.stream_key, error)
            redeliver = True
            # Without this wait, a Redis that serves reads but refuses this would have the entries written and confirmed
            # in a loop.
            await BACKOFF.wait(1, self._stopping)
        self._lane.release((one.entry for one in confirmations), redeliver=redeliver)


def _caller_of(reply: ReplyAddress) -> ReplyAddress:
    """What reply addresses of the same caller have in common. A signal reaches the workflow in any run and carries the
    receipts of all its attempts; each activity is completed by itself.
    """
    return replace(reply, run_id="", attempt="", awaits_replay=False) if reply.mode is ConfirmBy.SIGNAL else reply
