"""The first stage of the drain: takes entries from the stream and closes batches."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass
from datetime import timedelta

from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.batching import BatchLimits, DecodedEntry, FlushMark, OpenBatch
from write_batcher.activities.drain.watch import Watch
from write_batcher.errors import CodecUnavailable, InvalidEntry, QueueUnavailable
from write_batcher.models import FlushReason
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import FLUSH_FIELDS, StreamEntry
from write_batcher.queue.wire_form import Codec

ALONE_AFTER_DELIVERIES = 3  # restarts count too and prove nothing, so such an entry is only quarantined: written alone
LONGEST_BLOCK = timedelta(seconds=2)  # Redis 6.2 does not wake a blocked reader whose stream was deleted
STEP_LIMIT = timedelta(seconds=30)  # for one exchange with Redis, whose client gives up by itself after 7 s
BACKOFF = Backoff(0.2, 2.0)
DECODE_AGAIN_AFTER = timedelta(seconds=10)  # after the payload codec failed; new entries are read meanwhile

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedBatch:
    """Requests to be written together."""

    reason: FlushReason
    items: tuple[DecodedEntry, ...]
    alone: bool = False
    """A suspected poison record, written alone: it was delivered so often that writing it may be what ends drains."""
    closed_ms: int
    """When the batch was closed, in milliseconds since the epoch by the clock of Redis, as in entry ids."""

    def queued_ms(self, item: DecodedEntry) -> int:
        """How long one of the entries had been in the stream when the batch was closed."""
        return max(self.closed_ms - item.entry.entry_ms, 0)


class Taker:
    """Reads one partition. At the start and after every lost connection it recovers the entries that were delivered
    before and not acknowledged. Entries in flight, which this process will still acknowledge, are not taken twice.
    """

    def __init__(
        self,
        queue: WriteQueue,
        codec: Codec,
        limits: BatchLimits,
        watch: Watch,
        stopping: asyncio.Event,
        reject: Callable[[StreamEntry, str], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._codec = codec
        self._limits = limits
        self._watch = watch
        self._reject = reject
        self._stopping = stopping
        self._recovery_wanted = True
        self._redelivery_wanted = False
        self._pending_after: str | None = None  # set while a recovery reads the pending entries
        self._delivered_after: str | None = None  # set while it then reads those that no consumer has pending
        self._waiting: deque[DecodedEntry | FlushMark] = deque()
        self._suspects: deque[DecodedEntry] = deque()
        self._in_flight: set[str] = set()
        self._undecoded: set[str] = set()  # pending, because the payload codec could not decode them yet
        self._decode_again_at: float | None = None
        self._clock_offset_ms = 0
        self.idle_since = asyncio.get_running_loop().time()

    @property
    def in_flight(self) -> int:
        """How many entries are being collected, written or confirmed."""
        return len(self._in_flight)

    def release(self, entries: Iterable[StreamEntry], *, redeliver: bool) -> None:
        """Count `entries` as no longer in flight. With `redeliver` they are still pending, and are taken again."""
        self._in_flight.difference_update(entry.entry_id for entry in entries)
        self._redelivery_wanted |= redeliver

    async def next_batch(self) -> ClosedBatch | None:
        """Return the next batch, of at least one request. Once stopped, take nothing more and close the open batch with
        the reason `stop`; return None when it is empty.
        """
        if self._suspects:
            return self._closed(FlushReason.SIZE, [self._suspects.popleft()], alone=True)
        batch = OpenBatch(self._limits, self._waiting)
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
                # Copied before the read, so that what is confirmed during the read is not taken again.
                in_flight = frozenset(self._in_flight)
                entries, are_new = await self._read(room, due)
                suspects = await self._delivered_often(entries) if not are_new else frozenset()
                await self._admit([one for one in entries if one.entry_id not in in_flight], suspects, batch.waiting)
                failures = 0
                reason = batch.fill()
                if reason is None and overdue and are_new and len(entries) < room:
                    reason = batch.close(FlushReason.WAIT)
                if self._suspects and not batch.items:
                    self._waiting = batch.waiting
                    return self._closed(FlushReason.SIZE, [self._suspects.popleft()], alone=True)
            except QueueUnavailable as error:
                self._recovery_wanted = True
                failures += 1
                logger.warning("taking from %s failed, trying again: %s", self._queue.stream_key, error)
                await BACKOFF.wait(failures, self._stopping)
                if due is not None and due <= asyncio.get_running_loop().time():
                    reason = batch.close(FlushReason.WAIT)  # what has been taken need not wait for Redis
        self._waiting = batch.waiting
        if not batch.items:
            return None
        return self._closed(reason, batch.items)

    def _closed(self, reason: FlushReason, items: list[DecodedEntry], *, alone: bool = False) -> ClosedBatch:
        return ClosedBatch(reason=reason, items=tuple(items), alone=alone, closed_ms=self._now_ms())

    async def _read_clock(self) -> None:
        self._clock_offset_ms = await self._queue.now_ms() - round(asyncio.get_running_loop().time() * 1000)

    def _now_ms(self) -> int:
        """The time of Redis, whose clock stamps the entries."""
        return self._clock_offset_ms + round(asyncio.get_running_loop().time() * 1000)

    async def _due(self, oldest: StreamEntry | None) -> float | None:
        """When a batch must close, by the loop's clock. The age in the stream counts, so a restart does not begin the
        wait anew.
        """
        if oldest is None:
            return None
        with self._watch.step("reading the clock of Redis", STEP_LIMIT):
            await self._read_clock()
        # A clock that was set back must not add to the wait, and the id of a foreign entry may lie too far ahead for a
        # timedelta.
        left = self._limits.max_wait - timedelta(milliseconds=max(self._now_ms() - oldest.entry_ms, 0))
        return asyncio.get_running_loop().time() + left.total_seconds()

    async def _read(self, count: int, due: float | None) -> tuple[list[StreamEntry], bool]:
        """Up to `count` entries, and whether they are new ones, not those of a recovery."""
        with self._watch.step("reading the stream", STEP_LIMIT + LONGEST_BLOCK):
            if self._decode_again_at is not None and asyncio.get_running_loop().time() >= self._decode_again_at:
                self._decode_again_at = None
                self._recovery_wanted = True
            if self._recovery_wanted:
                await self._begin_recovery()
            if self._pending_after is not None:
                entries = await self._queue.read_pending(after=self._pending_after, count=count)
                self._pending_after = entries[-1].entry_id if entries else None
                self._delivered_after = None if entries else "0"
                return entries, False
            if self._delivered_after is not None:
                entries = await self._queue.read_delivered(after=self._delivered_after, count=count)
                self._delivered_after = entries[-1].entry_id if entries else None
                return entries, False
            block = LONGEST_BLOCK
            if self._redelivery_wanted:
                # After this read, not before it: entries that are redelivered repeatedly must not hold up new ones.
                self._redelivery_wanted, self._recovery_wanted = False, True
                block = timedelta(0)
            elif due is not None:
                left = timedelta(seconds=due - asyncio.get_running_loop().time())
                block = min(block, max(left, timedelta(0)))
            entries = await self._queue.read_new(count=count, block=block)
        if entries or due is not None:
            self.idle_since = asyncio.get_running_loop().time()
        return entries, True

    async def _begin_recovery(self) -> None:
        self._recovery_wanted = False  # first, as other stages may ask for the next recovery during this one
        await self._read_clock()
        await self._queue.ensure_group()
        await self._queue.claim_foreign()
        self._pending_after = "0"

    async def _delivered_often(self, entries: list[StreamEntry]) -> Set[str]:
        if not entries:
            return frozenset()
        deliveries = await self._queue.deliveries(entries)
        return {entry_id for entry_id, number in deliveries.items() if number >= ALONE_AFTER_DELIVERIES}

    async def _admit(
        self, entries: list[StreamEntry], suspects: Set[str], waiting: deque[DecodedEntry | FlushMark]
    ) -> None:
        """Decode `entries` into `waiting`. When this raises, the next recovery takes the missing ones again."""
        done: list[StreamEntry] = []
        for entry in entries:
            was_undecoded = entry.entry_id in self._undecoded
            self._undecoded.discard(entry.entry_id)
            if not entry.fields:  # deleted while it was pending
                done.append(entry)
            elif entry.fields == FLUSH_FIELDS:
                waiting.append(FlushMark())
                done.append(entry)
            else:
                try:
                    self._check_age(entry)
                    with self._watch.step("decoding an entry", STEP_LIMIT):
                        request = await self._codec.decode(entry.fields)
                    # The deliveries of an undecoded entry prove even less: it has never been in flight.
                    queue = self._suspects if entry.entry_id in suspects and not was_undecoded else waiting
                    queue.append(DecodedEntry(entry=entry, request=request))
                    self._in_flight.add(entry.entry_id)
                except CodecUnavailable as error:
                    self._leave_pending(entry, error, again=was_undecoded)
                except InvalidEntry as error:
                    self._in_flight.add(entry.entry_id)
                    await self._reject(entry, str(error))
        if done:
            await self._queue.acknowledge([(entry, None) for entry in done])

    def _leave_pending(self, entry: StreamEntry, error: CodecUnavailable, *, again: bool) -> None:
        """Leave `entry` pending for DECODE_AGAIN_AFTER, so that it does not hold up the entries behind it."""
        level = logging.DEBUG if again else logging.WARNING
        logger.log(level, "entry %s of %s is left pending: %s", entry.entry_id, self._queue.stream_key, error)
        self._undecoded.add(entry.entry_id)
        self._decode_again_at = asyncio.get_running_loop().time() + DECODE_AGAIN_AFTER.total_seconds()

    def _check_age(self, entry: StreamEntry) -> None:
        # The ledger may have forgotten that this entry was written: pruning must never cause a second write.
        age = timedelta(milliseconds=max(self._now_ms() - entry.first_ms, 0))
        if age > self._limits.max_age:
            raise InvalidEntry(
                f"The request was appended {age} ago, longer than the ledger remembers ({self._limits.max_age}): "
                "look whether the record is in the table, and submit it anew if it is not."
            )
