"""First stage of the drain: takes entries off the stream and closes batches."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from write_batcher.activities.backoff import Backoff
from write_batcher.activities.batching import BatchLimits, FlushMark, OpenBatch, Taken
from write_batcher.activities.watch import Watch
from write_batcher.errors import InvalidEntry, QueueUnavailable
from write_batcher.models import FlushReason
from write_batcher.queue.codec import Codec
from write_batcher.queue.stream import CONTROL_FLUSH, StreamEntry, WriteQueue

LONGEST_BLOCK = timedelta(seconds=2)  # Redis 6.2 does not wake a blocked reader whose stream was deleted
STEP_LIMIT = timedelta(seconds=30)  # of one exchange with Redis, whose client gives up after 7 s by itself
BACKOFF = Backoff(0.2, 2.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedBatch:
    """Requests to be written together."""

    reason: FlushReason
    items: tuple[Taken, ...]


class Taker:
    """Reads one partition. Every start and every lost connection begins with the entries that were delivered before
    and not acknowledged; entries in hand (in this process, on their way to acknowledgement) are not taken twice.
    """

    def __init__(
        self,
        queue: WriteQueue,
        codec: Codec,
        limits: BatchLimits,
        watch: Watch,
        stopping: asyncio.Event,
        refuse: Callable[[StreamEntry, str], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._codec = codec
        self._limits = limits
        self._watch = watch
        self._refuse = refuse
        self._stopping = stopping
        self._recovery_wanted = True
        self._pending_after: str | None = None  # set while the entries delivered before are read again
        self._line: deque[Taken | FlushMark] = deque()
        self._in_hand: set[str] = set()
        self.idle_since = asyncio.get_running_loop().time()

    @property
    def in_hand(self) -> int:
        """How many entries are being collected, written or confirmed."""
        return len(self._in_hand)

    def release(self, entries: Iterable[StreamEntry], *, redeliver: bool) -> None:
        """Entries whose way has ended. `redeliver` takes them again: they are still pending."""
        self._in_hand.difference_update(entry.entry_id for entry in entries)
        self._recovery_wanted |= redeliver

    async def next_batch(self) -> ClosedBatch | None:
        """The next batch with at least one request, or None once stopped and empty-handed. Stopping takes nothing more
        and closes the open batch with the reason `stop`.
        """
        batch = OpenBatch(self._limits, self._line)
        reason = batch.fill()
        oldest: StreamEntry | None = None
        due: float | None = None
        failures = 0
        while reason is None:
            if self._stopping.is_set():
                reason = batch.close(FlushReason.STOP)
                break
            try:
                if batch.oldest is not oldest:
                    due = await self._due(batch.oldest)
                    oldest = batch.oldest
                overdue = due is not None and due <= asyncio.get_running_loop().time()
                room = batch.room
                entries, complete = await self._read(room, due)
                await self._admit(entries, batch.line)
                failures = 0
                reason = batch.fill()
                if reason is None and overdue and complete and len(entries) < room:
                    reason = batch.close(FlushReason.WAIT)
            except QueueUnavailable as error:
                self._recovery_wanted = True
                failures += 1
                logger.warning("taking from %s failed, trying again: %s", self._queue.stream_key, error)
                await BACKOFF.wait(failures, self._stopping)
                if due is not None and due <= asyncio.get_running_loop().time():
                    reason = batch.close(FlushReason.WAIT)  # what is in hand need not wait for Redis
        self._line = batch.line
        if not batch.items:
            return None
        return ClosedBatch(reason=reason, items=tuple(batch.items))

    async def _due(self, oldest: StreamEntry | None) -> float | None:
        """When a batch must close, on the loop's clock. The stored age counts, so a restart does not start it again."""
        if oldest is None:
            return None
        with self._watch.step("reading the clock of Redis", STEP_LIMIT):
            age_ms = await self._queue.now_ms() - oldest.appended_ms
        # A clock set back must not add to the wait, and a foreign entry id may be too far ahead for a timedelta.
        left = self._limits.max_wait - timedelta(milliseconds=max(age_ms, 0))
        return asyncio.get_running_loop().time() + left.total_seconds()

    async def _read(self, count: int, due: float | None) -> tuple[list[StreamEntry], bool]:
        """Up to `count` entries, and whether the stream had no more of them at this moment."""
        with self._watch.step("reading the stream", STEP_LIMIT + LONGEST_BLOCK):
            if self._recovery_wanted:
                await self._begin_recovery()
            if self._pending_after is not None:
                entries = await self._queue.read_pending(after=self._pending_after, count=count)
                self._pending_after = entries[-1].entry_id if entries else None
                return entries, False
            block = LONGEST_BLOCK
            if due is not None:
                left = timedelta(seconds=due - asyncio.get_running_loop().time())
                block = min(block, max(left, timedelta(0)))
            entries = await self._queue.read_new(count=count, block=block)
        if entries or due is not None:
            self.idle_since = asyncio.get_running_loop().time()
        return entries, True

    async def _begin_recovery(self) -> None:
        self._recovery_wanted = False  # first: the other stages may ask for the next recovery during this one
        await self._queue.ensure_group()
        await self._queue.claim_foreign()
        self._pending_after = "0"

    async def _admit(self, entries: list[StreamEntry], line: deque[Taken | FlushMark]) -> None:
        """Decode `entries` into `line`. What is not there yet when this raises is taken again by the next recovery."""
        done: list[StreamEntry] = []
        for entry in entries:
            if entry.entry_id in self._in_hand:
                continue
            if not entry.fields:  # deleted while it was pending
                done.append(entry)
            elif entry.fields == CONTROL_FLUSH:
                line.append(FlushMark())
                done.append(entry)
            else:
                try:
                    with self._watch.step("decoding an entry", STEP_LIMIT):
                        line.append(Taken(entry=entry, request=await self._codec.decode(entry.fields)))
                    self._in_hand.add(entry.entry_id)
                except InvalidEntry as error:
                    self._in_hand.add(entry.entry_id)
                    await self._refuse(entry, str(error))
        if done:
            await self._queue.acknowledge(done)
