"""Dead letters of one partition: entries that could not be written, kept until an operator replays or discards them."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from write_batcher.models import QueueRef
from write_batcher.queue import lua
from write_batcher.queue.keys import PartitionKeys
from write_batcher.queue.redis_client import translated_errors
from write_batcher.queue.stream_entry import StreamEntry, read_entries
from write_batcher.queue.wire_form import Fields

PAGE_SIZE = 100
PAGE_BYTES = 8 * 1024 * 1024  # what a page may have, and of a larger dead letter it has the short fields only


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A stream entry that could not be written."""

    dead_id: str
    """Its id in the stream of dead letters."""
    entry_id: str
    """The id that it had as an entry."""
    reason: str
    fields: Fields
    """Those of the stream entry."""
    size_bytes: int
    """Of all its fields, also when only the short ones were read."""

    @property
    def request_id(self) -> str:
        return self.fields.get(b"id", b"").decode(errors="backslashreplace")


class DeadLetters:
    """The dead letters of one partition. Methods raise `QueueUnavailable` when Redis cannot be asked."""

    def __init__(self, redis: Redis, queue: QueueRef, partition: int) -> None:
        self._keys = PartitionKeys(queue, partition)
        self._redis = redis
        self._read = lua.Script(redis, lua.READ_ALL)
        self._queued_again = lua.Script(redis, lua.QUEUED_AGAIN)
        self._replay = lua.Script(redis, lua.REPLAY)
        self._discard = lua.Script(redis, lua.DISCARD)

    async def page(self, *, after: str = "0", count: int = PAGE_SIZE) -> list[DeadLetter]:
        """Return up to `count` dead letters in order, those behind `after` (default: from the first). Fewer once they
        have `PAGE_BYTES`, and of one that has more, only its short fields.
        """
        with translated_errors():
            found = await self._read(keys=[self._keys.dead_key], args=[after, count, PAGE_BYTES, PAGE_BYTES])
        return [_dead_letter(entry) for entry in read_entries(found)]

    async def get(self, dead_id: str) -> DeadLetter | None:
        """Return one dead letter with all its fields, or None when it is gone."""
        with translated_errors():
            found: Any = await self._redis.xrange(self._keys.dead_key, min=dead_id, max=dead_id)
        return next((_dead_letter(StreamEntry.of(dead_id, fields)) for _, fields in found), None)

    async def last_id(self) -> str | None:
        """Return the id of the latest dead letter, or None when there is none."""
        with translated_errors():
            found: Any = await self._redis.xrevrange(self._keys.dead_key, count=1)
        return found[0][0].decode() if found else None

    async def queued_again(self, letter: DeadLetter) -> Fields | None:
        """Return the latest entry in the stream with the same request id and of the same caller, or None when there is
        none.
        """
        request = [letter.fields.get(b"id", b""), letter.fields.get(b"reply", b"")]
        with translated_errors():
            found = await self._queued_again(keys=self._keys.keys, args=request)
        return next((dict(zip(flat[::2], flat[1::2], strict=True)) for _entry_id, flat in found), None)

    async def replay(self, letter: DeadLetter, *, signature: bytes | None = None) -> str | None:
        """Move the request back into the stream under its request id, in one step, marked as replayed: no earlier
        rejection binds it. `signature` takes the place of the one that it has.

        Returns the id of the new entry, or None when the dead letter is gone.
        """
        args: list[str | bytes] = [letter.dead_id]
        if signature is not None:
            args.append(signature)
        with translated_errors():
            added = await self._replay(keys=self._keys.keys, args=args)
        return added.decode() if added else None

    async def discard(self, letter: DeadLetter) -> bool:
        """Delete the dead letter. Returns False when it was gone already."""
        with translated_errors():
            return bool(await self._discard(keys=self._keys.keys, args=[letter.dead_id]))


def _dead_letter(entry: StreamEntry) -> DeadLetter:
    fields = dict(entry.fields)
    reason = fields.pop(b"dead-reason", b"").decode(errors="backslashreplace")
    entry_id = fields.pop(b"dead-entry", b"").decode(errors="backslashreplace")
    return DeadLetter(
        dead_id=entry.entry_id, entry_id=entry_id, reason=reason, fields=fields, size_bytes=entry.size_bytes
    )
