"""When a batch closes: pure bookkeeping, no clock and no I/O."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from write_batcher.activities.drain.items import DecodedEntry, FlushMark, Item
from write_batcher.models import MAX_REQUEST_AGE, PARK_AFTER, FlushReason
from write_batcher.queue.contract import Contract
from write_batcher.queue.stream_entry import StreamEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What closes a batch, which requests are accepted, how many dead letters are kept, and when a drain is parked."""

    max_items: int
    """Most requests in a batch."""
    max_bytes: int
    """Most bytes of stream entries in a batch of more than one."""
    max_wait: timedelta
    """Age of the oldest entry at which the batch closes."""
    max_request_bytes: int
    """Most bytes of a stream entry, without the fields that are added on its way."""
    max_dead_letters: int
    """Most dead letters of a partition; the oldest are deleted for new ones."""
    dead_letter_retention: timedelta
    """How long a dead letter is kept."""
    park_after: timedelta = PARK_AFTER
    """After how long without requests a drain is parked."""
    max_age: timedelta = MAX_REQUEST_AGE
    """A request that was made longer ago is not written, because the ledger may have forgotten its outcome."""

    def with_set_live(self, contract: Contract) -> "BatchLimits":
        """These limits with what an operator has set for the running queue."""
        changes: dict[str, Any] = {}
        if "max_items" in contract.set_live:
            changes["max_items"] = contract.max_items
        if "max_wait_ms" in contract.set_live:
            changes["max_wait"] = contract.max_wait
        return replace(self, **changes) if changes else self


class OpenBatch:
    """Collects entries, in order, until one of the limits closes it.

    What does not fit stays in `waiting` for the next batch: an entry that would exceed the bytes, everything behind it,
    and an entry whose request id is in this batch already, because the ids of a batch must differ; with it, whatever
    has the same key.
    """

    def __init__(self, limits: BatchLimits, waiting: Iterable[Item | FlushMark] = ()) -> None:
        self.limits = limits
        """May be replaced at any time."""
        self.waiting = deque(waiting)
        self.items: deque[Item] = deque()
        self.size_bytes = 0
        self.oldest: StreamEntry | None = None
        """The oldest entry; not always the first, because older ones may be redelivered."""
        self._ids: set[bytes] = set()
        self._postponed: list[Item] = []
        self._postponed_keys: set[bytes] = set()

    @property
    def room(self) -> int:
        """How many more entries may be read for this batch."""
        return self.limits.max_items - len(self.items) - len(self._postponed) - len(self.waiting)

    @property
    def room_bytes(self) -> int:
        """How many more bytes of entries may be read for this batch."""
        waiting = sum(map(_bytes_of, self.waiting)) + sum(map(_bytes_of, self._postponed))
        return self.limits.max_bytes - self.size_bytes - waiting

    def fill(self) -> FlushReason | None:
        """Move waiting entries into the batch; returns the reason why it has to close, None while it stays open."""
        while self.waiting:
            head = self.waiting[0]
            if isinstance(head, FlushMark):
                self.waiting.popleft()
                if self.items:
                    if self._postponed:
                        self.waiting.appendleft(head)  # what is postponed came before the mark
                    return self.close(FlushReason.FLUSH)
            elif head.entry.request_id in self._ids or head.entry.order_key in self._postponed_keys:
                self.waiting.popleft()
                self._postponed.append(head)
                self._postponed_keys.add(head.entry.order_key)
            elif self.items and self.size_bytes + _bytes_of(head) > self.limits.max_bytes:
                return self.close(FlushReason.BYTES)
            else:
                self.waiting.popleft()
                self._add(head)
            if len(self.items) + len(self._postponed) >= self.limits.max_items:
                return self.close(FlushReason.SIZE)
            if self.size_bytes >= self.limits.max_bytes:
                return self.close(FlushReason.BYTES)
        return self.close(FlushReason.SIZE) if len(self.items) >= self.limits.max_items else None

    def close(self, reason: FlushReason) -> FlushReason:
        """Close the batch and return the reason; entries that were postponed wait in front of the others."""
        self.waiting.extendleft(reversed(self._postponed))
        self._postponed = []
        return reason

    def _add(self, item: Item) -> None:
        self.items.append(item)
        self._ids.add(item.entry.request_id)
        self.size_bytes += _bytes_of(item)
        if self.oldest is None or item.entry.entry_ms < self.oldest.entry_ms:
            self.oldest = item.entry


def _bytes_of(item: Item | FlushMark) -> int:
    """What an entry counts in a batch; one that is held has left its payload in the stream."""
    return item.entry.size_bytes if isinstance(item, DecodedEntry) else 0
