"""The second stage of the drain: closes batches of the entries that have been read."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from write_batcher.activities.drain.batching import BatchLimits, OpenBatch
from write_batcher.activities.drain.bell import Bell
from write_batcher.activities.drain.clock import ServerClock
from write_batcher.activities.drain.items import ClosedBatch, FlushMark, Item
from write_batcher.models import FlushReason

LINGER_S = 0.5  # that a batch which is due waits at most for entries that are being read or decoded


class Taker:
    """Collects entries in an open batch, and closes it by items, bytes, age or flush, or when the drain is stopped;
    with a pace, as soon as it may be written.
    """

    def __init__(
        self,
        limits: Callable[[], BatchLimits],
        clock: ServerClock,
        bell: Bell,
        stopping: asyncio.Event,
        may_be_written: Callable[[], bool],
    ) -> None:
        """`may_be_written` tells whether the open batch is to be closed before it has to be."""
        self._limits = limits
        self._clock = clock
        self._bell = bell
        self._stopping = stopping
        self._may_be_written = may_be_written
        self._batch = OpenBatch(limits())
        self._opened_at: float | None = None
        self._more_at_hand = True
        self._reader_has_ended = False

    @property
    def has_items(self) -> bool:
        """Whether there is something for a batch."""
        return bool(self._batch.items or self._batch.waiting)

    @property
    def room(self) -> int:
        """How many entries may be read. It has none when the bytes are used up."""
        return self._batch.room if self._batch.room_bytes > 0 else 0

    @property
    def room_bytes(self) -> int:
        return self._batch.room_bytes

    def put(self, item: Item | FlushMark) -> None:
        """Take what has been read, in the order in which it is to be written."""
        self._batch.waiting.append(item)
        if self._opened_at is None:
            self._opened_at = asyncio.get_running_loop().time()
        self._bell.ring()

    def expect_more(self, at_hand: bool) -> None:
        """Note whether more entries are expected within moments: then a batch that is due waits for them, so that a
        backlog is written in full batches.
        """
        if at_hand is not self._more_at_hand:
            self._more_at_hand = at_hand
            self._bell.ring()

    def end(self) -> None:
        """Note that nothing more will come."""
        self._reader_has_ended = True
        self._bell.ring()

    async def next_batch(self) -> ClosedBatch | None:
        """Return the next batch, of at least one entry. Once stopped, close every batch at once; return None when
        nothing is left and nothing more will come.
        """
        while True:
            self._batch.limits = self._limits()
            reason = self._batch.fill()
            seconds_left = self._seconds_left()
            if reason is None and self._batch.items:
                if self._stopping.is_set():
                    reason = self._batch.close(FlushReason.STOP)
                elif seconds_left is not None and seconds_left <= 0:
                    reason = self._batch.close(FlushReason.WAIT)
                elif self._may_be_written():
                    lingers = LINGER_S - self._open_for() if self._more_at_hand else 0.0
                    if lingers <= 0:
                        reason = self._batch.close(FlushReason.IDLE)
                    else:
                        seconds_left = lingers
            if reason is not None:
                return self._closed(reason)
            if self._reader_has_ended:
                return None
            await self._bell.wait(seconds_left)

    def _closed(self, reason: FlushReason) -> ClosedBatch:
        closed = ClosedBatch(reason=reason, items=self._batch.items, closed_ms=self._clock.now_ms())
        self._batch = OpenBatch(self._limits(), self._batch.waiting)
        self._opened_at = asyncio.get_running_loop().time() if self._batch.waiting else None
        self._bell.ring()
        return closed

    def _seconds_left(self) -> float | None:
        """Seconds until the open batch closes by its age; None while it is empty."""
        oldest = self._batch.oldest
        if oldest is None or self._opened_at is None:
            return None
        # The age in the stream counts, so that a restart does not begin the wait anew. A clock that was set back must
        # not add to the wait, and the id of a foreign entry may lie too far ahead for a timedelta.
        age = timedelta(milliseconds=max(self._clock.now_ms() - oldest.entry_ms, 0))
        open_for = self._open_for()
        left = (self._limits().max_wait - max(age, timedelta(seconds=open_for))).total_seconds()
        if left > 0 or not self._more_at_hand:
            return left
        return max(left, -open_for) + LINGER_S

    def _open_for(self) -> float:
        """Seconds since the first entry was put into the open batch."""
        return asyncio.get_running_loop().time() - (self._opened_at or 0.0)
