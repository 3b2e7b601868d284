"""One entry of a partition's stream."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self

from write_batcher.queue.wire_form import MILLISECONDS_PATTERN, VERSION, Fields

FLUSH_FIELDS: Fields = {b"v": VERSION, b"control": b"flush"}  # a flush request: the drain closes its open batch
LONGEST_SHORT_FIELD = 8192  # bytes of name and value: a reply address fits
MAX_SHORT_FIELDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEntry:
    """One entry as it is stored in the stream."""

    entry_id: str
    fields: Fields
    """Only the short ones when the entry is larger than its reader wanted."""
    size_bytes: int
    """Of all its fields, names and values."""
    deliveries: int = 0
    """How often it has been delivered, as far as `read_delivered` told."""

    @classmethod
    def of(cls, entry_id: str, fields: Fields) -> Self:
        """Return an entry that was read whole."""
        return cls(entry_id=entry_id, fields=fields, size_bytes=size_of(fields))

    @property
    def request_id(self) -> bytes:
        return self.fields.get(b"id", b"")

    @property
    def order_key(self) -> bytes:
        """What it shares with the entries that it must not overtake."""
        return self.fields.get(b"key") or self.request_id

    @property
    def position(self) -> tuple[int, int]:
        """Where it is in the stream: later entries have a greater one."""
        return position(self.entry_id)

    @property
    def entry_ms(self) -> int:
        """When this entry was added: milliseconds since the epoch, by the clock of the Redis server."""
        return self.position[0]

    @property
    def first_ms(self) -> int:
        """When the request was made: milliseconds since the epoch. Of the times that are known, the earliest counts: of
        its append (for a replayed dead letter, of the first one), and of its caller's question.
        """
        times = (self.fields.get(name, b"") for name in (b"first", b"counted", b"asked"))
        known = [int(value) for value in times if MILLISECONDS_PATTERN.fullmatch(value)]
        return min([*known, self.entry_ms])


def position(entry_id: str) -> tuple[int, int]:
    """Return the numbers of an entry id. "0" is before the first entry."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)


def size_of(fields: Fields) -> int:
    """Return the bytes of all names and values."""
    return sum(len(name) + len(value) for name, value in fields.items())


def shortened(entry: StreamEntry, largest: int) -> StreamEntry:
    """Return the entry with only its short fields if it is larger than `largest` bytes, as scripts/collect.lua does."""
    if entry.size_bytes <= largest:
        return entry
    short = (item for item in entry.fields.items() if sum(map(len, item)) <= LONGEST_SHORT_FIELD)
    return replace(entry, fields=dict(islice(short, MAX_SHORT_FIELDS)))


def read_entries(reply: Any) -> list[StreamEntry]:
    """Return the entries that scripts/collect.lua answered with."""
    return [
        StreamEntry(
            entry_id=entry_id.decode(),
            fields=dict(zip(flat[::2], flat[1::2], strict=True)),
            size_bytes=size,
            deliveries=sum(deliveries),
        )
        for entry_id, flat, size, *deliveries in reply
    ]
