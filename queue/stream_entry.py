"""One entry of a partition's stream."""

from dataclasses import dataclass

from write_batcher.queue.wire_form import MILLISECONDS_PATTERN, VERSION, Fields

FLUSH_FIELDS: Fields = {b"v": VERSION, b"control": b"flush"}  # a flush request: the drain closes its open batch


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEntry:
    """One entry as it is stored in the stream."""

    entry_id: str
    fields: Fields
    """Empty when the entry was deleted while it was pending."""

    @property
    def size_bytes(self) -> int:
        return sum(len(name) + len(value) for name, value in self.fields.items())

    @property
    def request_id(self) -> bytes:
        return self.fields.get(b"id", b"")

    @property
    def entry_ms(self) -> int:
        """When this entry was added: milliseconds since the epoch, by the clock of the Redis server."""
        return int(self.entry_id.split("-", 1)[0])

    @property
    def first_ms(self) -> int:
        """When the request was first appended: for a replayed dead letter, before it became one."""
        first = self.fields.get(b"first", b"")
        return int(first) if MILLISECONDS_PATTERN.fullmatch(first) else self.entry_ms
