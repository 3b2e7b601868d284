"""Dead letters of one partition: entries that nobody could write, kept until an operator decides."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from write_batcher.queue import lua
from write_batcher.queue.codec import Fields
from write_batcher.queue.redis_client import translated_errors
from write_batcher.queue.stream import WriteQueue

PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One entry with the reason why it is dead. `dead_id` names it; `fields` are those of the stream entry."""

    dead_id: str
    reason: str
    fields: Fields

    @property
    def request_id(self) -> str:
        return self.fields.get(b"id", b"").decode(errors="backslashreplace")


class DeadLetters:
    """Methods raise QueueUnavailable."""

    def __init__(self, redis: Redis, queue: str, partition: int) -> None:
        self._queue = WriteQueue(redis, queue, partition)
        self._redis = redis
        self._replay = redis.register_script(lua.REPLAY)

    async def page(self, *, after: str = "-", count: int = PAGE) -> list[DeadLetter]:
        """The next ones in order, beyond the dead letter `after`."""
        with translated_errors():
            found = await self._redis.xrange(
                self._queue.dead_key, min=after if after == "-" else f"({after}", count=count
            )
        return _dead_letters(found)

    async def get(self, dead_id: str) -> DeadLetter | None:
        """One of them, or None."""
        with translated_errors():
            found = await self._redis.xrange(self._queue.dead_key, min=dead_id, max=dead_id)
        return next(iter(_dead_letters(found)), None)

    async def last_id(self) -> str | None:
        """The id of the latest one; None when there are none."""
        with translated_errors():
            found: Any = await self._redis.xrevrange(self._queue.dead_key, count=1)
        return found[0][0].decode() if found else None

    async def queued_again(self, letter: DeadLetter) -> Fields | None:
        """The latest entry in the stream with the same request id; None when there is none."""
        with translated_errors():
            entry_id: Any = await self._redis.hget(self._queue.live_key, letter.fields.get(b"id", b""))
            if entry_id is None:
                return None
            found: Any = await self._redis.xrange(self._queue.stream_key, min=entry_id, max=entry_id)
        return next((dict(fields) for _entry_id, fields in found), None)

    async def replay(self, letter: DeadLetter) -> str | None:
        """Put the request back into the stream under its own id, in one step; returns its new entry's id, or None when
        the dead letter is gone. Clear its rejection from the ledger first, or it will be told the same again.
        """
        with translated_errors():
            added = await self._replay(keys=self._queue.keys, args=[letter.dead_id])
        return added.decode() if added else None

    async def discard(self, letter: DeadLetter) -> bool:
        """Delete it; False when it was gone already."""
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
