"""One partition of a queue: a Redis stream that is appended to once per request id and never trimmed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from write_batcher.errors import QueueFull
from write_batcher.queue.codec import VERSION, Fields
from write_batcher.queue.connections import translated_errors

GROUP = "batcher"
CONSUMER = "drain"  # stable, so that a successor finds what its predecessor held without waiting for it to be idle
FOREIGN_IDLE = timedelta(seconds=60)  # entries that another consumer name held for longer are taken over
CONTROL_FLUSH: Fields = {b"v": VERSION, b"control": b"flush"}  # closes the open batch when the drain comes to it

# A request id that is live AND whose entry still exists is not appended again: an outage would multiply the backlog.
# The entry is looked up because Redis may have lost it while the marker survived, and because it may be another
# caller's request of the same id: each caller needs its own answer.
_APPEND = """
local stream, live, id, reply, max_backlog = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local known = redis.call('HGET', live, id)
local found = known and redis.call('XRANGE', stream, known, known) or {}
if #found > 0 then
  local fields = found[1][2]
  for i = 1, #fields, 2 do
    if fields[i] == 'reply' and fields[i + 1] == reply then return {0, known} end
  end
end
local backlog = redis.call('XLEN', stream)
if backlog >= max_backlog then return {-1, tostring(backlog)} end
local entry = redis.call('XADD', stream, '*', unpack(ARGV, 4))
redis.call('HSET', live, id, entry)
return {1, entry}
"""

# Not MULTI: Redis 6.2 and 7.0 refuse it under maxmemory, and then the stream could never drain.
# The marker goes only when it names this entry; when the stream is empty every marker is stale.
_FORGET = """
local function forget(stream, live, group, entry, id)
  redis.call('XACK', stream, group, entry)
  local deleted = redis.call('XDEL', stream, entry)
  if id ~= '' and redis.call('HGET', live, id) == entry then redis.call('HDEL', live, id) end
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', live) end
  return deleted
end
"""
_ACKNOWLEDGE = (
    _FORGET
    + """
local deleted = 0
for i = 2, #ARGV, 2 do deleted = deleted + forget(KEYS[1], KEYS[2], ARGV[1], ARGV[i], ARGV[i + 1]) end
return deleted
"""
)
_DEAD_LETTER = (
    _FORGET
    + """
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if #found > 0 then
  local fields = found[1][2]
  redis.call('HDEL', KEYS[2], '')  -- under maxmemory a script may add only after a first write that needs no memory
  redis.call('XADD', KEYS[3], '*', 'reason', ARGV[4], 'entry', ARGV[2], unpack(fields, 1, math.min(#fields, 7000)))
end
return forget(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
"""
)

# A script, because redis-py drops the cursor of XAUTOCLAIM with JUSTID, and without JUSTID delivery counts would rise.
_CLAIM_FOREIGN = """
return redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'JUSTID')[1]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEntry:
    """One entry as it lies in the stream. `fields` is empty when it was deleted while it was pending."""

    entry_id: str
    fields: Fields

    @property
    def size_bytes(self) -> int:
        return sum(len(name) + len(value) for name, value in self.fields.items())

    @property
    def request_id(self) -> bytes:
        return self.fields.get(b"id", b"")

    @property
    def appended_ms(self) -> int:
        """Milliseconds since the epoch, by the clock of the Redis server."""
        return int(self.entry_id.split("-", 1)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """Entries of one partition: `backlog` is all that is queued or pending."""

    backlog: int
    pending: int
    dead: int


class WriteQueue:
    """One partition. Methods raise QueueUnavailable, or its kinds QueueFull and GroupMissing.

    `reader` is the client of the blocking reads; without one only the methods that do not read may be called.
    """

    def __init__(self, redis: Redis, queue: str, partition: int, *, reader: Redis | None = None) -> None:
        prefix = f"write-batcher:{{{queue}:{partition}}}"  # the braces keep the keys in one cluster slot
        self.stream_key = f"{prefix}:requests"
        self.live_key = f"{prefix}:live"
        self.dead_key = f"{prefix}:dead"
        self._redis = redis
        self._reader = reader
        self._append = redis.register_script(_APPEND)
        self._acknowledge = redis.register_script(_ACKNOWLEDGE)
        self._claim_foreign = redis.register_script(_CLAIM_FOREIGN)
        self._dead_letter = redis.register_script(_DEAD_LETTER)

    async def append(self, fields: Fields, *, max_backlog: int) -> str:
        """Append a request, once for its caller while it is live; returns the id of its entry. Raises QueueFull."""
        flat = [part for item in fields.items() for part in item]
        with translated_errors():
            added, entry = await self._append(
                keys=[self.stream_key, self.live_key], args=[fields[b"id"], fields[b"reply"], max_backlog, *flat]
            )
        if added < 0:
            raise QueueFull(
                f"stream {self.stream_key} holds {entry.decode()} entries, the limit is {max_backlog}: "
                "the batcher is behind or not running"
            )
        return str(entry.decode())

    async def append_flush(self) -> None:
        """Ask the drain to close its open batch when it has taken everything before this point."""
        with translated_errors():
            await self._redis.xadd(self.stream_key, {name: value for name, value in CONTROL_FLUSH.items()})  # noqa: C416

    async def ensure_group(self) -> None:
        """Create the group at the beginning of the stream: created at its end, earlier entries would be invisible."""
        with translated_errors():
            try:
                await self._redis.xgroup_create(self.stream_key, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def claim_foreign(self) -> None:
        """Take over what another consumer name left pending (somebody read by hand); `read_pending` returns it then."""
        cursor = b"0-0"
        with translated_errors():
            while True:  # a call looks at a bounded number of entries, so the cursor decides, not what was found
                cursor = await self._claim_foreign(
                    keys=[self.stream_key], args=[GROUP, CONSUMER, int(FOREIGN_IDLE.total_seconds() * 1000), cursor]
                )
                if cursor == b"0-0":
                    return

    async def read_pending(self, *, after: str, count: int) -> list[StreamEntry]:
        """Entries that were delivered to the drain and not acknowledged, in order, beyond the entry `after`."""
        with translated_errors():
            reply = await self._blocking_reader.xreadgroup(GROUP, CONSUMER, {self.stream_key: after}, count=count)
        return _entries(reply)

    async def read_new(self, *, count: int, block: timedelta) -> list[StreamEntry]:
        """At most `count` new entries; waits at most `block` for the first. Never cancel it: that strands entries."""
        block_ms = math.ceil(block.total_seconds() * 1000)
        with translated_errors():
            reply = await self._blocking_reader.xreadgroup(
                GROUP,
                CONSUMER,
                {self.stream_key: ">"},
                count=count,
                block=block_ms or None,  # BLOCK 0 would wait for ever
            )
        return _entries(reply)

    async def now_ms(self) -> int:
        """Milliseconds since the epoch, by the clock that stamps entry ids."""
        with translated_errors():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> int:
        """Remove entries whose fate is decided; returns how many were still there."""
        args: list[str | bytes] = [GROUP]
        for entry in entries:
            args += [entry.entry_id, entry.request_id]
        with translated_errors():
            return int(await self._acknowledge(keys=[self.stream_key, self.live_key], args=args))

    async def dead_letter(self, entry: StreamEntry, reason: str) -> None:
        """Move an entry that nobody can write to the dead letters, with the reason, in one step.

        Of a foreign entry with more than 3,500 fields only those are kept: Lua unpacks no more than 8,000 values.
        """
        with translated_errors():
            await self._dead_letter(
                keys=[self.stream_key, self.live_key, self.dead_key],
                args=[GROUP, entry.entry_id, entry.request_id, reason.encode(errors="backslashreplace")],
            )

    async def statistics(self) -> StreamStatistics:
        with translated_errors():
            backlog = await self._redis.xlen(self.stream_key)
            dead = await self._redis.xlen(self.dead_key)
            try:
                pending = (await self._redis.xpending(self.stream_key, GROUP))["pending"]
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                pending = 0
        return StreamStatistics(backlog=backlog, pending=pending, dead=dead)

    @property
    def _blocking_reader(self) -> Redis:
        if self._reader is None:
            raise TypeError("this WriteQueue was made without a reader")
        return self._reader


def _entries(reply: Any) -> list[StreamEntry]:
    return [
        StreamEntry(entry_id=entry_id.decode(), fields=fields or {})
        for _stream, entries in reply or []
        for entry_id, fields in entries
    ]
