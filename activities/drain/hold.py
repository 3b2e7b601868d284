"""The hold pen: entries that cannot be decided now, one line for each key. Pure bookkeeping, no I/O."""

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.items import HeldEntry

MAX_HELD = 10_000  # entries: some 15 MB of memory
MAX_HELD_BYTES = 256 * 1024 * 1024  # of them in the stream: a recovery reads them all
BACKOFF = Backoff(1.0, 15.0)  # when a lock goes, or a table is repaired, nobody waits much longer
REST = 20  # times as long as a try has taken, at least: an entry that runs into a timeout must not cost much
TICK_S = 0.5  # tries that are due within the same tick are made together, in one batch


@dataclass(slots=True, kw_only=True, eq=False)
class Line:
    """The held entries of one key, in the order of their append. Only the first may be tried, or several of the first
    together: none overtakes another.
    """

    key: bytes
    entries: list[HeldEntry] = field(default_factory=list)  # a deque would take 600 bytes
    trying: bool = False
    """Whether a try is under way: then nothing else of this key is tried."""
    due: float | None = None
    """When the next try is due; None while one is under way."""
    releasing: list[HeldEntry] = field(default_factory=list)
    """Those whose release is carried out by the try that is under way."""
    refused_meanwhile: list[HeldEntry] = field(default_factory=list)
    """Those that were refused while the try was under way: whatever becomes of it, they are due when it ends."""


class Pen:
    """The held entries of one partition."""

    def __init__(self, clock: Callable[[], float], ring: Callable[[], None]) -> None:
        """`clock` returns seconds; `ring` is called whenever a try may be due, or room may have come."""
        self._clock = clock
        self._ring = ring
        self._lines: dict[bytes, Line] = {}
        self._by_id: dict[str, HeldEntry] = {}
        self._due: list[tuple[float, int, Line]] = []
        self._numbers = itertools.count()
        self._size_bytes = 0
        self._changed: set[str] = set()
        self.refusals: dict[str, str] = {}
        """Entries that are not here yet and must not be written any more, with the reason."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[HeldEntry]:
        return iter(self._by_id.values())

    @property
    def is_full(self) -> bool:
        """Whether no more entries should be taken from the stream."""
        return len(self._by_id) >= MAX_HELD or self._size_bytes >= MAX_HELD_BYTES

    def take_changes(self) -> set[str]:
        """Return the ids of the entries that have come, gone or been tried since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def note_changes(self, entry_ids: Iterable[str]) -> None:
        """Have the next `take_changes` return these entries too."""
        self._changed.update(entry_ids)

    def get(self, entry_id: str) -> HeldEntry | None:
        return self._by_id.get(entry_id)

    def blocks(self, key: bytes) -> bool:
        """Whether an entry with this key must wait behind others."""
        return key in self._lines

    def is_first(self, held: HeldEntry) -> bool:
        """Whether an entry waits for no other with its key."""
        return self._lines[held.entry.order_key].entries[0] is held

    def add(self, held: HeldEntry) -> None:
        """Hold an entry, behind those with its key. It is due at once, or has to wait if a try has failed already."""
        held.due = self._next_try(held) if held.failures else self._clock()
        line = self._lines.setdefault(held.entry.order_key, Line(key=held.entry.order_key))
        line.entries.append(held)
        self._by_id[held.entry.entry_id] = held
        self._changed.add(held.entry.entry_id)
        self._size_bytes += held.entry.size_bytes
        if len(line.entries) == 1 or held.refused:  # else it does not change when the line is due
            self._schedule(line)

    def take_due(self, *, count: int, max_bytes: int) -> list[HeldEntry]:
        """Begin a try of one line that is due, and return which of its entries to try: all that must not be written, or
        the first alone, or up to `count` of the first that nobody has tried yet. Empty when no line is due.
        """
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due, _number, line = heapq.heappop(self._due)
            if line.due == due and not line.trying and line.entries:  # else it has been scheduled anew
                line.trying, line.due = True, None
                line.releasing = [held for held in line.entries if held.released]
                for held in line.releasing:
                    held.released = False
                return _to_try(line, now, count, max_bytes)
        return []

    def next_due(self) -> float | None:
        """When the next try is due, by the clock; None when none is."""
        return self._due[0][0] if self._due else None

    def failed(self, held: HeldEntry, reason: str, *, seconds: float = 0.0) -> None:
        """Note that a try has decided nothing about an entry, and how long it has kept the writer busy."""
        held.failures += 1
        held.reason = reason
        self._changed.add(held.entry.entry_id)
        held.due = max(self._next_try(held), self._clock() + REST * seconds)

    def distrust(self, held: HeldEntry, reason: str) -> None:
        """Have an entry tried alone: the batch that it was in has failed as a whole, and nobody knows by whom."""
        held.alone, held.reason, held.failures, held.due = True, reason, 0, self._clock()
        self._changed.add(held.entry.entry_id)

    def remove(self, held: HeldEntry) -> None:
        """Let go of an entry that is decided, or gone from the stream."""
        line = self._lines[held.entry.order_key]
        line.entries.remove(held)
        del self._by_id[held.entry.entry_id]
        self._changed.add(held.entry.entry_id)
        self._size_bytes -= held.entry.size_bytes
        self._settle(line)
        self._ring()

    def end_try(self, key: bytes) -> list[HeldEntry]:
        """End the try of a line. Returns the entries whose release has been carried out by it."""
        line = self._lines[key]
        line.trying, released, line.releasing = False, line.releasing, []
        for held in line.refused_meanwhile:
            held.due = self._clock()
        line.refused_meanwhile.clear()
        self._settle(line)
        return released

    def is_urgent(self, held: HeldEntry) -> bool:
        """Whether an operator waits for the try of an entry that is under way."""
        return held.refused is not None or bool(self._lines[held.entry.order_key].releasing)

    def refuse(self, held: HeldEntry, reason: str) -> None:
        """Have an entry refused as soon as no try of its key is under way. It need not be the first."""
        held.refused, held.failures, held.due = reason, 0, self._clock()
        line = self._lines[held.entry.order_key]
        if line.trying:
            line.refused_meanwhile.append(held)
        self._schedule(line)

    def release(self, held: HeldEntry) -> None:
        """Have an entry tried at once, or the one that it waits for."""
        held.released = True
        self._schedule(self._lines[held.entry.order_key])

    def _settle(self, line: Line) -> None:
        if line.entries:
            self._schedule(line)
        elif not line.trying:
            del self._lines[line.key]

    def _schedule(self, line: Line) -> None:
        if line.trying:
            return
        due = self._clock() if any(held.released for held in line.entries) else _due_of(line)
        if line.due is None or due != line.due:
            line.due = due
            heapq.heappush(self._due, (due, next(self._numbers), line))
            self._ring()

    def _next_try(self, held: HeldEntry) -> float:
        return math.ceil((self._clock() + BACKOFF.delay(held.failures)) / TICK_S) * TICK_S


def _due_of(line: Line) -> float:
    refused = (held.due for held in line.entries if held.refused)
    return min(line.entries[0].due, min(refused, default=math.inf))


def _to_try(line: Line, now: float, count: int, max_bytes: int) -> list[HeldEntry]:
    refused = [held for held in line.entries if held.refused and held.due <= now]
    if refused:
        return refused[:count]
    chosen: list[HeldEntry] = []
    size_bytes = 0
    ids: set[bytes] = set()  # those of a batch must differ
    for held in itertools.islice(line.entries, count):
        is_special = held.alone or held.failures > 0
        size_bytes += held.entry.size_bytes
        if chosen and (is_special or size_bytes > max_bytes or held.entry.request_id in ids):
            break
        chosen.append(held)
        ids.add(held.entry.request_id)
        if is_special:
            break
    return chosen
