"""One entry of a partition's stream."""

from dataclasses import dataclass, field, replace
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

    # The drain asks for these several times.
    request_id: bytes = field(init=False, compare=False)
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
        request_id = fields.get(b"id", b"")
        where = position(self.entry_id)
        object.__setattr__(self, "request_id", request_id)
        object.__setattr__(self, "order_key", fields.get(b"key") or request_id)
        object.__setattr__(self, "position", where)
        object.__setattr__(self, "first_ms", _first_ms(fields, where[0]))

    @classmethod
    def of(cls, entry_id: str, fields: Fields) -> Self:
        """Return an entry that was read whole."""
        return cls(entry_id=entry_id, fields=fields, size_bytes=size_of(fields))

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
        if value and MILLISECONDS_PATTERN.fullmatch(value):
            first = min(first, int(value))
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
