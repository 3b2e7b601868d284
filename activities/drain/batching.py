"""When a batch is full: pure bookkeeping, no clock and no I/O."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from write_batcher.models import FlushReason, WriteRequest
from write_batcher.queue.stream import StreamEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """A batch never holds more than `max_items` requests or `max_bytes` of entries; it closes when its oldest entry
    is `max_wait` old. A request that was appended longer than `max_age` ago is not written at all.
    """

    max_items: int
    max_bytes: int
    max_wait: timedelta
    max_age: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A decoded entry: what to write, and what to acknowledge afterwards."""

    entry: StreamEntry
    request: WriteRequest


class FlushMark:
    """Stands in the line of taken entries where somebody asked for a flush."""


class OpenBatch:
    """Collects taken entries, in order, until one of the limits closes it.

    What does not fit stays in `line` for the next batch: an entry that would exceed the bytes, everything behind it,
    and an entry whose request id is in this batch already (ids in one batch must differ).
    """

    def __init__(self, limits: BatchLimits, line: Iterable[Taken | FlushMark] = ()) -> None:
        self._limits = limits
        self.line = deque(line)
        self.items: list[Taken] = []
        self.size_bytes = 0
        self._ids: set[str] = set()
        self._repeated: list[Taken | FlushMark] = []

    @property
    def room(self) -> int:
        """How many entries more may be read for this batch."""
        return self._limits.max_items - len(self.items) - len(self._repeated)

    @property
    def oldest(self) -> StreamEntry | None:
        """The entry whose age decides; not always the first, because older ones may be delivered again."""
        return min((taken.entry for taken in self.items), key=lambda entry: entry.entry_ms, default=None)

    def fill(self) -> FlushReason | None:
        """Take in what is in line; the reason to close, if there is one now."""
        while self.line:
            head = self.line[0]
            if isinstance(head, FlushMark):
                self.line.popleft()
                if self.items:
                    return self.close(FlushReason.FLUSH)
            elif head.request.request_id in self._ids:
                self._repeated.append(self.line.popleft())
            elif self.items and self.size_bytes + head.entry.size_bytes > self._limits.max_bytes:
                return self.close(FlushReason.BYTES)
            else:
                self.line.popleft()
                self.items.append(head)
                self._ids.add(head.request.request_id)
                self.size_bytes += head.entry.size_bytes
            if self.room <= 0:
                return self.close(FlushReason.SIZE)
        return None

    def close(self, reason: FlushReason) -> FlushReason:
        """Close now; from outside for `wait` and `stop`."""
        self.line.extendleft(reversed(self._repeated))
        self._repeated = []
        return reason
