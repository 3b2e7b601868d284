"""One partition of a queue: a Redis stream that is appended to once per request id and never trimmed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from write_batcher.errors import QueueFull
from write_batcher.queue import lua
from write_batcher.queue.codec import MILLISECONDS, VERSION, Fields
from write_batcher.queue.redis_client import translated_errors

GROUP = "batcher"
CONSUMER = "drain"  # stable, so that a successor finds what its predecessor held without waiting for it to be idle
FOREIGN_IDLE = timedelta(seconds=60)  # entries that another consumer name held for longer are taken over
CONTROL_FLUSH: Fields = {b"v": VERSION, b"control": b"flush"}  # closes the open batch when the drain comes to it


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
    def entry_ms(self) -> int:
        """When this entry was added; milliseconds since the epoch, by the clock of the Redis server."""
        return int(self.entry_id.split("-", 1)[0])

    @property
    def first_ms(self) -> int:
        """When the request was appended first: of a replayed dead letter, before it was one."""
        first = self.fields.get(b"first", b"")
        return int(first) if MILLISECONDS.fullmatch(first) else self.entry_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatistics:
    """One partition at one moment. `backlog` entries are queued or pending, `pending` of them delivered to the drain,
    the oldest for `oldest_ms`; `dead` letters wait for an operator.

    `counters` are totals since Redis has the partition: appended = written + duplicate + rejected + withdrawn + dead +
    backlog (but for flush requests in it), and more for the monitor.
    """

    backlog: int
    pending: int
    dead: int
    oldest_ms: int
    counters: dict[str, int]


class WriteQueue:
    """One partition. Methods raise QueueUnavailable, or its kinds QueueFull and GroupMissing.

    `reader` is the client of the blocking reads; without one only the methods that do not read may be called.
    """

    def __init__(self, redis: Redis, queue: str, partition: int, *, reader: Redis | None = None) -> None:
        prefix = f"write-batcher:{{{queue}:{partition}}}"  # the braces keep the keys in one cluster slot
        self.stream_key = f"{prefix}:requests"
        self.live_key = f"{prefix}:live"
        self.dead_key = f"{prefix}:dead"
        self.counters_key = f"{prefix}:counters"
        self.alone_key = f"{prefix}:alone"
        self.keys = [self.stream_key, self.live_key, self.dead_key, self.counters_key, self.alone_key]
        self._redis = redis
        self._reader = reader
        self._append = redis.register_script(lua.APPEND)
        self._acknowledge = redis.register_script(lua.ACKNOWLEDGE)
        self._claim_foreign = redis.register_script(lua.CLAIM_FOREIGN)
        self._dead_letter = redis.register_script(lua.DEAD_LETTER)
        self._begin_alone = redis.register_script(lua.BEGIN_ALONE)
        self._now = redis.register_script(lua.NOW)

    async def append(self, fields: Fields, *, max_backlog: int) -> str:
        """Append a request, once for its attempt while it is live; returns the id of its entry. Raises QueueFull."""
        flat = [part for item in fields.items() for part in item]
        with translated_errors():
            added, entry = await self._append(
                keys=self.keys, args=[fields[b"id"], fields[b"reply"], max_backlog, *flat]
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
            # Asked first: a server that is out of memory refuses to create even what is there.
            if await self._group() is not None:
                return
            try:
                await self._redis.xgroup_create(self.stream_key, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def _group(self) -> dict[str, Any] | None:
        """What the server tells of the group; None when there is none."""
        try:
            groups: Any = await self._redis.xinfo_groups(self.stream_key)
        except ResponseError as error:
            if str(error).startswith("no such key"):
                return None
            raise
        return next((group for group in groups if group["name"] == GROUP.encode()), None)

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

    async def read_delivered(self, *, after: str, count: int) -> list[StreamEntry]:
        """Entries that were delivered to anybody and not acknowledged, in order, beyond the entry `after`: also those
        that no consumer has pending any more, because somebody deleted it (XGROUP DELCONSUMER).
        """
        with translated_errors():
            group = await self._group()
            if group is None:
                return []
            last = group["last-delivered-id"]
            found: Any = await self._redis.xrange(
                self.stream_key, min="-" if after == "0" else f"({after}", max=last, count=count
            )
        return [StreamEntry(entry_id=entry_id.decode(), fields=fields) for entry_id, fields in found]

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
            seconds, microseconds = await self._now(keys=[self.stream_key])
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def deliveries(self, entries: Sequence[StreamEntry]) -> dict[str, int]:
        """How often each of these pending entries, which are in order, has been delivered to the drain."""
        with translated_errors():
            found: Any = await self._redis.xpending_range(
                self.stream_key, GROUP, min=entries[0].entry_id, max=entries[-1].entry_id, count=len(entries)
            )
        return {one["message_id"].decode(): one["times_delivered"] for one in found}

    async def deaths_alone(self, entry: StreamEntry) -> int:
        """How many processes ended while they wrote `entry` alone, one after the other."""
        with translated_errors():
            return int(await self._redis.hget(self.alone_key, entry.entry_id) or 0)

    async def begin_alone(self, entry: StreamEntry) -> None:
        """Note that `entry` is about to be written alone."""
        with translated_errors():
            await self._begin_alone(keys=self.keys, args=[entry.entry_id])

    async def end_alone(self, entry: StreamEntry) -> None:
        """The process has survived writing `entry` alone."""
        with translated_errors():
            await self._redis.hdel(self.alone_key, entry.entry_id)

    async def acknowledge(self, entries: Sequence[tuple[StreamEntry, str | None]]) -> int:
        """Remove entries whose fate is decided, and count them under their outcomes (None: not a request); returns how
        many were still there.
        """
        args: list[str | bytes] = [GROUP]
        for entry, outcome in entries:
            args += _forget_args(entry, outcome)
        with translated_errors():
            return int(await self._acknowledge(keys=self.keys, args=args))

    async def dead_letter(self, entry: StreamEntry, outcome: str, reason: str) -> None:
        """Move an entry that nobody can write to the dead letters, with the reason, in one step.

        Of a foreign entry with more than 3,500 fields only those are kept.
        """
        with translated_errors():
            await self._dead_letter(
                keys=self.keys,
                args=[GROUP, *_forget_args(entry, outcome), reason.encode(errors="backslashreplace")],
            )

    async def count(self, counts: Mapping[str, int]) -> None:
        """Add to the counters. Lost when the process dies first: for the monitor only."""
        with translated_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for name, number in counts.items():
                pipeline.hincrby(self.counters_key, name, number)
            await pipeline.execute()

    async def statistics(self) -> PartitionStatistics:
        """The state of the partition, read in a few steps: exact when nothing moves."""
        with translated_errors():
            backlog = await self._redis.xlen(self.stream_key)
            dead = await self._redis.xlen(self.dead_key)
            first: Any = await self._redis.xrange(self.stream_key, count=1)
            counters: Any = await self._redis.hgetall(self.counters_key)
            try:
                pending = (await self._redis.xpending(self.stream_key, GROUP))["pending"]
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                pending = 0
        oldest_ms = 0
        if first:
            oldest_ms = max(await self.now_ms() - int(first[0][0].split(b"-", 1)[0]), 0)
        return PartitionStatistics(
            backlog=backlog,
            pending=pending,
            dead=dead,
            oldest_ms=oldest_ms,
            counters={name.decode(): int(value) for name, value in counters.items()},
        )

    @property
    def _blocking_reader(self) -> Redis:
        if self._reader is None:
            raise TypeError("this WriteQueue was made without a reader")
        return self._reader


def _forget_args(entry: StreamEntry, outcome: str | None) -> list[str | bytes]:
    return [entry.entry_id, entry.request_id, outcome or "", entry.fields.get(b"counted", b"")]


def _entries(reply: Any) -> list[StreamEntry]:
    return [
        StreamEntry(entry_id=entry_id.decode(), fields=fields or {})
        for _stream, entries in reply or []
        for entry_id, fields in entries
    ]
