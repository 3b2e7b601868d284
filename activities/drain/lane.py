"""Which entries are between the stream and the caller's confirmation, and which keys are on their way to the writer."""

from collections.abc import Iterable

from write_batcher.activities.drain.bell import Bell
from write_batcher.queue.stream_entry import StreamEntry


class Lane:
    """Entries in flight. A recovery does not take them twice.

    Those that are on their way to the writer are counted by key: an entry may go into the pen by a shorter way only
    when none with its key is before it.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._in_flight: set[str] = set()
        self._on_their_way: dict[bytes, int] = {}
        self.redelivery_wanted = False
        """Whether an entry was let go that is still pending, and has to be taken again."""

    def __len__(self) -> int:
        return len(self._in_flight)

    def snapshot(self) -> frozenset[str]:
        """Return the ids of the entries in flight."""
        return frozenset(self._in_flight)

    def take(self, entry: StreamEntry) -> None:
        """Count an entry as in flight: this process will acknowledge it, or release it."""
        self._in_flight.add(entry.entry_id)

    def release(self, entries: Iterable[StreamEntry], *, redeliver: bool) -> None:
        """Count `entries` as no longer in flight. With `redeliver` they are still pending, and are taken again."""
        self._in_flight.difference_update(entry.entry_id for entry in entries)
        self.redelivery_wanted |= redeliver
        self._bell.ring()

    def enter(self, entry: StreamEntry) -> None:
        """Count an entry as on its way to the writer."""
        key = entry.order_key
        self._on_their_way[key] = self._on_their_way.get(key, 0) + 1

    def leave(self, entry: StreamEntry) -> None:
        """Count an entry as written, held or rejected."""
        key = entry.order_key
        left = self._on_their_way[key] - 1
        if left:
            self._on_their_way[key] = left
        else:
            del self._on_their_way[key]

    def on_their_way(self, entry: StreamEntry) -> int:
        """Return how many entries with its key are on their way to the writer."""
        return self._on_their_way.get(entry.order_key, 0)
