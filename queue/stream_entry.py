"""One entry of a partition's stream."""

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Self

from write_batcher.queue.wire_form import VERSION, Fields, milliseconds

FLUSH_FIELDS: Fields = {b"v": VERSION, b"control": b"flush"}  # a flush request: the drain closes its open batch
NO_FIELDS: Fields = {}
LONGEST_SHORT_FIELD = 8192  # bytes of name and value: a reply address fits
MAX_SHORT_FIELDS = 50


@dataclass(slots=True, kw_only=True)
class StreamEntry:
    """One entry as it is stored in the stream. Nobody changes one: it is not frozen because that would double the time
    it takes to make one, of which the drain makes two for each row.
    """

    entry_id: str
    fields: Fields
    """Only the short ones when the entry is larger than its reader wanted; none of one that is `without_fields`."""
    size_bytes: int
    """Of all its fields, names and values."""
    deliveries: int = 0
    """How often it has been delivered, as far as `read_delivered` told."""

    # The drain asks for these several times.
    request_id: bytes = field(init=False, compare=False)
    counted: bytes = field(init=False, compare=False)
    """When it was appended, as append.lua notes it; empty for one that was added without."""
    order_key: bytes = field(init=False, compare=False)
    """What it shares with the entries that it must not overtake."""
    position: tuple[int, int] = field(init=False, compare=False)
    """Where it is in the stream: later entries have a greater one."""
    first_ms: int = field(init=False, compare=False)
    """When the request was made: milliseconds since the epoch. Of the times that are known, the earliest counts: of its
    append (for a replayed dead letter, of the first one), and of its caller's question.
    """

    def __post_init__(self) -> None:
        fields = self.fields
        self.request_id = fields.get(b"id", b"")
        self.counted = fields.get(b"counted", b"")
        self.order_key = fields.get(b"key") or self.request_id
        self.position = position(self.entry_id)
        self.first_ms = _first_ms(fields, self.position[0])

    @classmethod
    def of(cls, entry_id: str, fields: Fields) -> Self:
        """Return an entry that was read whole."""
        return cls(entry_id=entry_id, fields=fields, size_bytes=size_of(fields))

    def without_fields(self) -> "StreamEntry":
        """Return what has to be remembered of an entry that has been decoded, or will be read again."""
        rest = object.__new__(StreamEntry)
        rest.entry_id, rest.size_bytes, rest.deliveries = self.entry_id, self.size_bytes, self.deliveries
        rest.request_id, rest.counted, rest.order_key = self.request_id, self.counted, self.order_key
        rest.position, rest.first_ms = self.position, self.first_ms
        rest.fields = NO_FIELDS
        return rest

    @property
    def entry_ms(self) -> int:
        """When this entry was added: milliseconds since the epoch, by the clock of the Redis server."""
        return self.position[0]


def position(entry_id: str) -> tuple[int, int]:
    """Return the numbers of an entry id. "0" is before the first entry."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)


def _first_ms(fields: Fields, entry_ms: int) -> int:
    first = entry_ms
    for name in (b"first", b"counted", b"asked"):
        value = fields.get(name)
        ms = milliseconds(value) if value else None
        if ms is not None and ms < first:
            first = ms
    return first


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
