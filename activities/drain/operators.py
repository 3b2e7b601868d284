"""What operators see of the held entries, and what they order: marks and orders in Redis."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

from write_batcher.activities.drain.clock import ServerClock
from write_batcher.activities.drain.hold import Pen
from write_batcher.activities.drain.items import HeldEntry
from write_batcher.activities.drain.receipt_text import printable
from write_batcher.errors import QueueUnavailable
from write_batcher.queue.marks import GivenOrder, HeldMark, Order
from write_batcher.queue.stream import WriteQueue

LOOK_EVERY = timedelta(seconds=1)
MARKED_AT_ONCE = 500  # entries, so that no command occupies the server for long
WAITS_BEHIND = "It waits behind another request with its key."

logger = logging.getLogger(__name__)


class Operators:
    """Marks in Redis what is in the pen, and carries out the orders that are given there."""

    def __init__(self, queue: WriteQueue, pen: Pen, clock: ServerClock) -> None:
        self._queue = queue
        self._pen = pen
        self._clock = clock
        self._earlier: dict[str, HeldMark] | None = None  # those of drains before this one
        self._marks: dict[str, HeldMark] = {}
        self._released: set[str] = set()
        self._carried_out: set[str] = set()
        self._looking = asyncio.Lock()

    def carried_out(self, entries: Sequence[HeldEntry]) -> None:
        """Note that the ordered release of these entries has been tried."""
        self._carried_out.update(held.entry.entry_id for held in entries)

    async def run(self) -> None:
        """Follow the pen and the orders until cancelled."""
        while True:
            try:
                await self.look()
            except QueueUnavailable as error:
                logger.debug("marks and orders of %s cannot be exchanged: %s", self._queue.stream_key, error)
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def look(self) -> None:
        """Exchange marks and orders once. Raises `QueueUnavailable` when Redis cannot be asked."""
        async with self._looking:
            await self._exchange()

    async def _exchange(self) -> None:
        # The marks first: an operator who sees that an order is gone looks at the mark for what came of it.
        carried_out = set(self._carried_out)
        await self._mark()
        if carried_out:
            await self._queue.withdraw_orders(carried_out)
            self._carried_out -= carried_out
            self._released -= carried_out
        await self._follow(await self._queue.orders())

    async def _mark(self) -> None:
        """Have the marks say what the pen holds."""
        await self._clock.refresh()
        if self._earlier is None:
            self._earlier = await self._queue.held()
        changed = list(self._pen.take_changes())
        try:
            while changed:
                await self._mark_changed(changed[-MARKED_AT_ONCE:])
                del changed[-MARKED_AT_ONCE:]
        except QueueUnavailable:
            self._pen.note_changes(changed)
            raise

    async def _mark_changed(self, changed: list[str]) -> None:
        marks = {
            entry_id: mark
            for entry_id in changed
            if (mark := self._mark_of(entry_id)) is not None and self._marks.get(entry_id) != mark
        }
        gone = [entry_id for entry_id in changed if entry_id in self._marks and self._pen.get(entry_id) is None]
        if marks:
            await self._queue.mark_held(marks)
            self._marks |= marks
        if gone:
            await self._queue.unmark_held(gone)
            for entry_id in gone:
                del self._marks[entry_id]

    def _mark_of(self, entry_id: str) -> HeldMark | None:
        """None for an entry that is not held, or is about to be tried first."""
        held = self._pen.get(entry_id)
        if held is None or (held.reason is None and self._pen.is_first(held)):
            return None
        known = self._marks.get(entry_id) or (self._earlier or {}).get(entry_id)
        return HeldMark(
            request_id=held.entry.request_id.decode(errors="backslashreplace"),
            reason=held.reason or WAITS_BEHIND,
            since_ms=known.since_ms if known else self._clock.now_ms(),
        )

    async def _follow(self, orders: Mapping[str, GivenOrder]) -> None:
        refusals: dict[str, str] = {}
        for entry_id, given in orders.items():
            held = self._pen.get(entry_id)
            if given.order is Order.REJECT:
                reason = _rejection(given)
                if held is not None:
                    self._refuse(held, reason)
                elif await self._queue.entry(entry_id) is not None:
                    refusals[entry_id] = reason  # as soon as it comes by
                else:
                    self._carried_out.add(entry_id)
            elif held is None:
                self._carried_out.add(entry_id)  # it is not held: it is tried anyway
            elif entry_id not in self._released:
                logger.info("entry %s of %s is released by an operator", entry_id, self._queue.stream_key)
                self._released.add(entry_id)
                self._pen.release(held)
        self._pen.refusals = refusals

    def _refuse(self, held: HeldEntry, reason: str) -> None:
        if held.refused is None:
            logger.info("entry %s of %s is rejected by an operator", held.entry.entry_id, self._queue.stream_key)
            self._pen.refuse(held, reason)


def _rejection(given: GivenOrder) -> str:
    return printable(f"Rejected by an operator: {given.reason}" if given.reason else "Rejected by an operator.")
