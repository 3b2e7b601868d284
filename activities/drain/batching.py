"""When a batch closes: pure bookkeeping, no clock and no I/O."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from write_batcher.models import FlushReason, WriteRequest
from write_batcher.queue.stream_entry import StreamEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What closes a batch, and how old a request may be."""

    max_items: int
    """Most requests in a batch."""
    max_bytes: int
    """Most bytes of stream entries in a batch of more than one."""
    max_wait: timedelta
    """Age of the oldest entry at which the batch closes."""
    max_age: timedelta = timedelta(days=7)
    """A request that was appended longer ago is not written, because the ledger may have forgotten its outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedEntry:
    """A request to write, and the stream entry to acknowledge afterwards."""

    entry: StreamEntry
    request: WriteRequest


class FlushMark:
    """Stands among the waiting entries where somebody asked for a flush."""


class OpenBatch:
    """Collects entries, in order, until one of the limits closes it.

    What does not fit stays in `waiting` for the next batch: an entry that would exceed the bytes, everything behind it,
    and an entry whose request id is in this batch already, because the ids of a batch must differ.
    """

    def __init__(self, limits: BatchLimits, waiting: Iterable[DecodedEntry | FlushMark] = ()) -> None:
        self._limits = limits
        self.waiting = deque(waiting)
        self.items: list[DecodedEntry] = []
        self.size_bytes = 0
        self._ids: set[str] = set()
        self._repeated: list[DecodedEntry | FlushMark] = []

    @property
    def room(self) -> int:
        """How many more entries may be read for this batch."""
        return self._limits.max_items - len(self.items) - len(self._repeated)

    @property
    def oldest(self) -> StreamEntry | None:
        """The oldest entry; not always the first, because older ones may be redelivered."""
        return min((item.entry for item in self.items), key=lambda entry: entry.entry_ms, default=None)

    def fill(self) -> FlushReason | None:
        """Move waiting entries into the batch; returns the reason why it has to close, None while it stays open."""
        while self.waiting:
            head = self.waiting[0]
            if isinstance(head, FlushMark):
                self.waiting.popleft()
                if self.items:
                    return self.close(FlushReason.FLUSH)
            elif head.request.request_id in self._ids:
                self._repeated.append(self.waiting.popleft())
            elif self.items and self.size_bytes + head.entry.size_bytes > self._limits.max_bytes:
                return self.close(FlushReason.BYTES)
            else:
                self.waiting.popleft()
                self.items.append(head)
                self._ids.add(head.request.request_id)
                self.size_bytes += head.entry.size_bytes
            if self.room <= 0:
                return self.close(FlushReason.SIZE)
        return None

    def close(self, reason: FlushReason) -> FlushReason:
        """Close the batch and return the reason; entries whose request id is repeated wait in front of the others."""
        self.waiting.extendleft(reversed(self._repeated))
        self._repeated = []
        return reason
