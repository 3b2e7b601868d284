"""What the stages of a drain hand to each other."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from write_batcher.models import FlushReason, WriteRequest
from write_batcher.queue.stream_entry import StreamEntry


@dataclass(slots=True, kw_only=True, eq=False)
class HeldEntry:
    """An entry that is not written with the others. It has no record: each try reads it from the stream again, so that
    thousands of them cost little memory.
    """

    entry: StreamEntry
    reason: str | None = None
    """Why it is held; None when it only waits behind others with its key."""
    alone: bool = False
    """Whether it has to be written alone: it, or its batch, may be what ends drains or makes the sink fail."""
    refused: str | None = None
    """Why it must not be written any more; None when it may be."""
    released: bool = False
    """Whether an operator has asked for a try at once."""
    failures: int = 0
    """Tries in a row that have decided nothing."""
    due: float = 0.0
    """When the next try is due, by the loop's clock."""


@dataclass(slots=True, kw_only=True, eq=False)
class DecodedEntry:
    """A request to write, and the stream entry to acknowledge afterwards."""

    entry: StreamEntry
    """Without its fields."""
    request: WriteRequest


class FlushMark:
    """Stands among the waiting entries where somebody asked for a flush."""


Item = DecodedEntry | HeldEntry


@dataclass(slots=True, kw_only=True, eq=False)
class ClosedBatch:
    """Entries to be written together, and among them those that go into the pen when it is their turn. The writer takes
    them out, so that their memory is free as soon as it can be.
    """

    reason: FlushReason
    items: deque[Item]
    closed_ms: int
    """When the batch was closed, in milliseconds since the epoch by the clock of Redis, as in entry ids."""


@dataclass(slots=True, kw_only=True, eq=False)
class Retry:
    """An entry that is tried again, decoded, and its place in the pen."""

    decoded: DecodedEntry
    held: HeldEntry


@dataclass(slots=True, kw_only=True, eq=False)
class RetryBatch:
    """Held entries to be tried again together: of each key the first ones, in their order."""

    items: deque[Retry]
    closed_ms: int
    """As in `ClosedBatch`."""
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when the writer has dealt with all entries."""
    seconds: float = 0.0
    """How long that has kept the writer busy."""

    @property
    def reason(self) -> FlushReason:
        return FlushReason.RETRY
