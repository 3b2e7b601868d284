"""Dead letters of one partition: entries that could not be written, kept until an operator replays or discards them."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from write_batcher.queue import lua
from write_batcher.queue.redis_client import translated_errors
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.wire_form import Fields

PAGE_SIZE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A stream entry that could not be written."""

    dead_id: str
    """Its id in the stream of dead letters."""
    reason: str
    fields: Fields
    """Those of the stream entry."""

    @property
    def request_id(self) -> str:
        return self.fields.get(b"id", b"").decode(errors="backslashreplace")


class DeadLetters:
    """The dead letters of one partition. Methods raise `QueueUnavailable` when Redis cannot be asked."""

    def __init__(self, redis: Redis, queue: str, partition: int) -> None:
        self._queue = WriteQueue(redis, queue, partition)
        self._redis = redis
        self._replay = redis.register_script(lua.REPLAY)

    async def page(self, *, after: str = "-", count: int = PAGE_SIZE) -> list[DeadLetter]:
        """Return up to `count` dead letters in order, those behind `after` (default: from the first)."""
        with translated_errors():
            found = await self._redis.xrange(
                self._queue.dead_key, min=after if after == "-" else f"({after}", count=count
            )
        return _dead_letters(found)

    async def get(self, dead_id: str) -> DeadLetter | None:
        """Return one dead letter, or None when it is gone."""
        with translated_errors():
            found = await self._redis.xrange(self._queue.dead_key, min=dead_id, max=dead_id)
        return next(iter(_dead_letters(found)), None)

    async def last_id(self) -> str | None:
        """Return the id of the latest dead letter, or None when there is none."""
        with translated_errors():
            found: Any = await self._redis.xrevrange(self._queue.dead_key, count=1)
        return found[0][0].decode() if found else None

    async def queued_again(self, letter: DeadLetter) -> Fields | None:
        """Return the latest entry in the stream with the same request id, or None when there is none."""
        with translated_errors():
            entry_id: Any = await self._redis.hget(self._queue.live_key, letter.fields.get(b"id", b""))
            if entry_id is None:
                return None
            found: Any = await self._redis.xrange(self._queue.stream_key, min=entry_id, max=entry_id)
        return next((dict(fields) for _entry_id, fields in found), None)

    async def replay(self, letter: DeadLetter) -> str | None:
        """Move the request back into the stream under its request id, in one step.

        Returns the id of the new entry, or None when the dead letter is gone. Clear the rejection from the ledger
        first, or the request is rejected again.
        """
        with translated_errors():
            added = await self._replay(keys=self._queue.keys, args=[letter.dead_id])
        return added.decode() if added else None

    async def discard(self, letter: DeadLetter) -> bool:
        """Delete the dead letter. Returns False when it was gone already."""
        with translated_errors():
            return bool(await self._redis.xdel(self._queue.dead_key, letter.dead_id))


def _dead_letters(reply: Any) -> list[DeadLetter]:
    letters = []
    for dead_id, fields in reply:
        entry = dict(fields)
        reason = entry.pop(b"dead-reason", b"").decode(errors="backslashreplace")
        entry.pop(b"dead-entry", None)
        letters.append(DeadLetter(dead_id=dead_id.decode(), reason=reason, fields=entry))
    return letters
