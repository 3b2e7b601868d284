"""One partition of a queue: a Redis stream that takes each request once and is never trimmed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from write_batcher.errors import QueueFull
from write_batcher.queue import lua
from write_batcher.queue.redis_client import translated_errors
from write_batcher.queue.stream_entry import FLUSH_FIELDS, StreamEntry
from write_batcher.queue.wire_form import Fields

GROUP = "batcher"
CONSUMER = "drain"  # always the same name, so that a new drain finds at once what the one before it left pending
FOREIGN_IDLE = timedelta(seconds=60)  # entries pending for another consumer name for longer are taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatistics:
    """The state of one partition at one moment."""

    backlog: int
    """Entries in the stream, pending ones included."""
    pending: int
    """Entries delivered to the drain and not acknowledged."""
    dead: int
    """Dead letters that wait for an operator."""
    oldest_ms: int
    """Age of the oldest entry in milliseconds; 0 without one."""
    counters: dict[str, int]
    """Totals since the partition was created: appended = written + duplicate + rejected + withdrawn + dead + backlog
    (without the flush requests in it), and the monitor's figures.
    """


class WriteQueue:
    """One partition. Methods raise `QueueUnavailable` when Redis cannot be asked, or its kinds `QueueFull` (Redis is
    out of memory) and `GroupMissing` (the consumer group is gone).

    `reader` is the client for blocking reads; without one the methods that read through the consumer group raise
    `TypeError`.
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
        """Append a request unless it is in the stream already: the latest entry with its request id has the same reply
        address. Returns the id of the entry.

        Raises `QueueFull` when the stream holds `max_backlog` entries or more.
        """
        flat = [part for item in fields.items() for part in item]
        with translated_errors():
            added, entry = await self._append(
                keys=self.keys, args=[fields[b"id"], fields[b"reply"], max_backlog, *flat]
            )
        if added < 0:
            raise QueueFull(
                f"Stream {self.stream_key} holds {entry.decode()} entries, the limit is {max_backlog}: "
                "the batcher is behind or not running."
            )
        return str(entry.decode())

    async def append_flush(self) -> None:
        """Append a flush request: the drain closes its open batch when it has taken every entry before it."""
        with translated_errors():
            await self._redis.xadd(self.stream_key, {name: value for name, value in FLUSH_FIELDS.items()})  # noqa: C416

    async def ensure_group(self) -> None:
        """Create the group at the beginning of the stream: created at its end, earlier entries would be invisible."""
        with translated_errors():
            # Look first: a server that is out of memory refuses XGROUP CREATE even when the group exists.
            if await self._group() is not None:
                return
            try:
                await self._redis.xgroup_create(self.stream_key, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def _group(self) -> dict[str, Any] | None:
        try:
            groups: Any = await self._redis.xinfo_groups(self.stream_key)
        except ResponseError as error:
            if str(error).startswith("no such key"):
                return None
            raise
        return next((group for group in groups if group["name"] == GROUP.encode()), None)

    async def claim_foreign(self) -> None:
        """Take over entries that another consumer name left pending, for example because somebody read by hand:
        `read_pending` returns them from now on.
        """
        cursor = b"0-0"
        with translated_errors():
            while True:  # each call examines a bounded number of entries: only the cursor tells whether it was the last
                cursor = await self._claim_foreign(
                    keys=[self.stream_key], args=[GROUP, CONSUMER, int(FOREIGN_IDLE.total_seconds() * 1000), cursor]
                )
                if cursor == b"0-0":
                    return

    async def read_pending(self, *, after: str, count: int) -> list[StreamEntry]:
        """Return up to `count` entries that were delivered to the drain and not acknowledged, in order, those behind
        the entry `after` ("0": from the first).
        """
        with translated_errors():
            reply = await self._blocking_reader.xreadgroup(GROUP, CONSUMER, {self.stream_key: after}, count=count)
        return _entries(reply)

    async def read_delivered(self, *, after: str, count: int) -> list[StreamEntry]:
        """Return up to `count` entries that were delivered to any consumer and not acknowledged, in order, those behind
        the entry `after` ("0": from the first). They include entries that are pending for no consumer any more, because
        somebody deleted it (XGROUP DELCONSUMER).
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
        """Return up to `count` new entries, after waiting up to `block` for the first.

        Never cancel it: the server may have delivered entries already, and they would stay pending.
        """
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
        """Return milliseconds since the epoch, by the clock that stamps entry ids."""
        with translated_errors():
            seconds, microseconds = await self._now(keys=[self.stream_key])
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def deliveries(self, entries: Sequence[StreamEntry]) -> dict[str, int]:
        """Return how often each of these pending entries has been delivered to the drain, by entry id. `entries` must
        be in order and not empty.
        """
        with translated_errors():
            found: Any = await self._redis.xpending_range(
                self.stream_key, GROUP, min=entries[0].entry_id, max=entries[-1].entry_id, count=len(entries)
            )
        return {pending["message_id"].decode(): pending["times_delivered"] for pending in found}

    async def deaths_alone(self, entry: StreamEntry) -> int:
        """Return how many processes in a row died while they wrote a batch of `entry` alone."""
        with translated_errors():
            return int(await self._redis.hget(self.alone_key, entry.entry_id) or 0)

    async def begin_alone(self, entry: StreamEntry) -> None:
        """Count one death for `entry`, which is about to be written alone; `end_alone` takes all of them back."""
        with translated_errors():
            await self._begin_alone(keys=self.keys, args=[entry.entry_id])

    async def end_alone(self, entry: StreamEntry) -> None:
        """Reset the deaths of `entry`: this process survived writing it alone."""
        with translated_errors():
            await self._redis.hdel(self.alone_key, entry.entry_id)

    async def acknowledge(self, entries: Sequence[tuple[StreamEntry, str | None]]) -> int:
        """Remove settled entries and count them under their outcomes (None: not a request). Returns how many were still
        in the stream.
        """
        args: list[str | bytes] = [GROUP]
        for entry, outcome in entries:
            args += _forget_args(entry, outcome)
        with translated_errors():
            return int(await self._acknowledge(keys=self.keys, args=args))

    async def dead_letter(self, entry: StreamEntry, outcome: str, reason: str) -> None:
        """Move an entry that cannot be written to the dead letters, with the reason, in one step. At most 3,500 of its
        fields are kept.
        """
        with translated_errors():
            await self._dead_letter(
                keys=self.keys,
                args=[GROUP, *_forget_args(entry, outcome), reason.encode(errors="backslashreplace")],
            )

    async def count(self, counts: Mapping[str, int]) -> None:
        """Add to the counters. Counts that a dying process has not added are lost: for the monitor only."""
        with translated_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for name, number in counts.items():
                pipeline.hincrby(self.counters_key, name, number)
            await pipeline.execute()

    async def statistics(self) -> PartitionStatistics:
        """Return the state of the partition, read in several steps: exact only while nothing changes."""
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
            raise TypeError("This WriteQueue has no reader: create it with reader=.")
        return self._reader


def _forget_args(entry: StreamEntry, outcome: str | None) -> list[str | bytes]:
    return [entry.entry_id, entry.request_id, outcome or "", entry.fields.get(b"counted", b"")]


def _entries(reply: Any) -> list[StreamEntry]:
    return [
        StreamEntry(entry_id=entry_id.decode(), fields=fields or {})
        for _stream, entries in reply or []
        for entry_id, fields in entries
    ]
