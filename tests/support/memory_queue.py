"""A partition in memory, with the behaviour of `WriteQueue` that the drain relies on."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast

from write_batcher.errors import QueueUnavailable
from write_batcher.queue.marks import GivenOrder, HeldMark, Order
from write_batcher.queue.stream import PartitionStatistics, WriteQueue
from write_batcher.queue.stream_entry import StreamEntry, position, shortened
from write_batcher.queue.target_state import TargetState
from write_batcher.queue.wire_form import Fields

UNLIMITED = 2**53


@dataclass(frozen=True, slots=True)
class Letter:
    entry: StreamEntry
    outcome: str
    reason: str


@dataclass
class SharedState:
    """What the drains of all partitions of a queue share."""

    turn_at: float = 0.0
    rows_at: float = 0.0
    limits: tuple[float | None, float | None] = (None, None)
    target: TargetState | None = None
    target_until: float = 0.0


class MemoryQueue:
    """Set `outage` to have every call fail."""

    stream_key = "memory"

    def __init__(self, *, largest_entry: int = UNLIMITED, shared: SharedState | None = None) -> None:
        self._largest = largest_entry
        self._shared = shared or SharedState()
        self._offset_ms = round((time.time() - asyncio.get_running_loop().time()) * 1000)
        self._entries: dict[str, StreamEntry] = {}
        self._pending: Counter[str] = Counter()  # with the number of deliveries
        self._deaths: Counter[str] = Counter()
        self._arrived = asyncio.Event()
        self._number = 0
        self.has_reader = False
        self.outage: str | None = None
        self.hangs_s = 0.0
        """How long each call hangs before it fails, like one to a frozen server."""
        self.replies_to_lose = 0
        """How many of the next reads deliver entries, and lose them on their way to the reader."""
        self.acknowledged: list[tuple[str, str | None]] = []
        self.on_acknowledge: Callable[[StreamEntry, str | None], None] = lambda _entry, _outcome: None
        self.letters: list[Letter] = []
        self.marks: dict[str, HeldMark] = {}
        self.given: dict[str, GivenOrder] = {}
        self.counters: Counter[str] = Counter()
        self.reads: list[int] = []
        """The sizes of what was read, in bytes."""

    @property
    def queue(self) -> WriteQueue:
        return cast(WriteQueue, self)

    @property
    def backlog(self) -> int:
        return len(self._entries)

    def add(self, fields: Fields) -> str:
        self._number += 1
        entry_id = f"{self._now_ms()}-{self._number}"
        self._entries[entry_id] = StreamEntry.of(entry_id, fields)
        self._arrived.set()
        return entry_id

    def delete(self, entry_id: str) -> None:
        """Delete an entry that may be pending, like somebody by hand."""
        self._entries.pop(entry_id, None)

    def deliver(self, times: int) -> None:
        """Deliver all entries like drains that are killed while they hold what they read."""
        for entry_id in self._entries:
            self._pending[entry_id] += times

    async def ensure_group(self) -> None:
        await self._call()

    async def read_new(
        self, *, after: str, count: int, max_bytes: int, block: timedelta = timedelta(0)
    ) -> list[StreamEntry]:
        await self._call()
        if not self._behind(after) and block:
            self._arrived.clear()
            try:
                async with asyncio.timeout(block.total_seconds()):
                    await self._arrived.wait()
            except TimeoutError:
                pass
            await self._call()
        return self._delivered(self._behind(after), count, max_bytes)

    async def read_delivered(self, *, after: str, count: int, max_bytes: int) -> list[StreamEntry]:
        await self._call()
        delivered = [entry for entry in self._behind(after) if self._pending[entry.entry_id]]
        return self._delivered(delivered, count, max_bytes)

    async def entry(self, entry_id: str) -> StreamEntry | None:
        await self._call()
        return self._entries.get(entry_id)

    async def now_ms(self) -> int:
        await self._call()
        return self._now_ms()

    async def next_turn(
        self, *, pace: float | None, max_rate: float | None, partitions: int, asks: bool, rows: int
    ) -> float:
        await self._call()
        now, turns = asyncio.get_running_loop().time(), self._shared
        between = 1 / pace if pace else 0.0
        if turns.limits != (pace, max_rate):
            turns.limits = (pace, max_rate)
            turns.turn_at, turns.rows_at = min(turns.turn_at, now + between), min(turns.rows_at, now + 1)
        turns.rows_at = max(turns.rows_at, now) + (rows / max_rate if max_rate else 0.0)
        if not asks:
            return 0.0
        turn_at = max(turns.turn_at, turns.rows_at, now)
        turns.turn_at = turn_at + between
        return turn_at - now

    async def note_reader(self, holds_for: timedelta) -> None:
        await self._call()
        self.has_reader = True

    async def forget_reader(self) -> None:
        await self._call()
        self.has_reader = False

    async def note_target(self, state: TargetState, holds_for: timedelta) -> None:
        await self._call()
        self._shared.target = state
        self._shared.target_until = asyncio.get_running_loop().time() + holds_for.total_seconds()

    async def may_probe(self, lease: timedelta) -> bool:
        await self._call()
        known = self._shared.target if asyncio.get_running_loop().time() < self._shared.target_until else None
        if known is None:
            await self.note_target(TargetState.PROBING, lease)
        return known in (None, TargetState.BACK)

    async def deaths_alone(self, entry: StreamEntry) -> int:
        await self._call()
        return self._deaths[entry.entry_id]

    async def begin_alone(self, entry: StreamEntry) -> None:
        await self._call()
        self._deaths[entry.entry_id] += 1

    async def end_alone(self, entry: StreamEntry) -> None:
        await self._call()
        del self._deaths[entry.entry_id]

    async def acknowledge(self, entries: Sequence[tuple[StreamEntry, str | None]]) -> int:
        await self._call()
        for entry, outcome in entries:
            self._forget(entry, outcome)
        return len(entries)

    async def dead_letter(self, entry: StreamEntry, outcome: str, reason: str, *, max_letters: int) -> None:
        await self._call()
        if entry.entry_id in self._entries:
            self.letters.append(Letter(self._entries[entry.entry_id], outcome, reason))
            del self.letters[:-max_letters]
        self._forget(entry, outcome)

    async def trim_dead_letters(self, *, retention: timedelta) -> int:
        await self._call()
        return 0

    async def mark_held(self, marks: Mapping[str, HeldMark]) -> None:
        await self._call()
        self.marks.update({entry_id: mark for entry_id, mark in marks.items() if entry_id in self._entries})

    async def unmark_held(self, entry_ids: Iterable[str]) -> None:
        await self._call()
        for entry_id in entry_ids:
            self.marks.pop(entry_id, None)

    async def held(self) -> dict[str, HeldMark]:
        await self._call()
        return dict(self.marks)

    def order(self, entry_id: str, order: Order, reason: str = "") -> None:
        if entry_id in self._entries:
            self.given[entry_id] = GivenOrder(order=order, reason=reason)

    async def orders(self) -> dict[str, GivenOrder]:
        await self._call()
        return dict(self.given)

    async def withdraw_orders(self, entry_ids: Iterable[str]) -> None:
        await self._call()
        for entry_id in entry_ids:
            self.given.pop(entry_id, None)

    async def count(self, counts: Mapping[str, int]) -> None:
        await self._call()
        self.counters.update(counts)

    async def statistics(self) -> PartitionStatistics:
        await self._call()
        return PartitionStatistics(
            backlog=self.backlog,
            pending=len(self._pending),
            held=len(self.marks),
            dead=len(self.letters),
            oldest_ms=0,
            counters=dict(self.counters),
        )

    def _now_ms(self) -> int:
        return self._offset_ms + round(asyncio.get_running_loop().time() * 1000)

    async def _call(self) -> None:
        await asyncio.sleep(0)
        if self.hangs_s:
            await asyncio.sleep(self.hangs_s)
            raise QueueUnavailable("no answer")
        if self.outage:
            raise QueueUnavailable(self.outage)

    def _behind(self, after: str) -> list[StreamEntry]:
        return [entry for entry in self._entries.values() if entry.position > position(after)]

    def _delivered(self, behind: list[StreamEntry], count: int, max_bytes: int) -> list[StreamEntry]:
        entries: list[StreamEntry] = []
        size_bytes = 0
        for entry in behind[:count]:
            if size_bytes >= max_bytes:
                break
            self._pending[entry.entry_id] += 1
            entries.append(replace(shortened(entry, self._largest), deliveries=self._pending[entry.entry_id]))
            size_bytes += min(entry.size_bytes, self._largest)
        if entries:
            self.reads.append(size_bytes)
            if self.replies_to_lose:
                self.replies_to_lose -= 1
                raise QueueUnavailable("the reply was lost")
        return entries

    def _forget(self, entry: StreamEntry, outcome: str | None) -> None:
        self._entries.pop(entry.entry_id, None)
        for kept in (self._pending, self._deaths, self.marks, self.given):
            kept.pop(entry.entry_id, None)
        self.acknowledged.append((entry.entry_id, outcome))
        self.on_acknowledge(entry, outcome)
