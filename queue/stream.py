"""One partition of a queue: a Redis stream that takes each request once and is never trimmed."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from write_batcher.models import QueueRef
from write_batcher.queue import lua
from write_batcher.queue.keys import PartitionKeys, target_key, turns_key
from write_batcher.queue.marks import (
    GivenOrder,
    HeldMark,
    Order,
    decode_held_marks,
    decode_orders,
    encode_mark,
)
from write_batcher.queue.redis_client import translated_errors
from write_batcher.queue.stream_entry import FLUSH_FIELDS, StreamEntry, position, read_entries, shortened
from write_batcher.queue.target_state import TargetState
from write_batcher.queue.wire_form import Fields

GROUP = "batcher"
CONSUMER = "drain"  # always the same name, so that a new drain finds at once what the one before it left pending
MAX_DEAD_REASON_BYTES = 8192
TRIM_AT_ONCE = 100  # dead letters, so that no script occupies the server for long
UNLIMITED = 2**53  # bytes; Lua knows no larger integer


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendResult:
    """What became of one request that was to be appended."""

    entry_id: str | None = None
    """Of its entry, be it new or queued before; None when there is none."""
    backlog: int | None = None
    """The number of entries in the stream, when that is full and the request was not appended."""
    dead: bool = False
    """Whether the request is a dead letter and therefore was not appended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatistics:
    """The state of one partition at one moment."""

    backlog: int
    """Entries in the stream, pending ones included."""
    pending: int
    """Entries delivered to the drain and not acknowledged."""
    held: int
    """Entries that the drain cannot decide about now."""
    dead: int
    """Dead letters that wait for an operator."""
    oldest_ms: int
    """Age of the oldest entry in milliseconds; 0 without one."""
    counters: dict[str, int]
    """Totals since the partition was created: appended = written + duplicate + rejected + withdrawn + dead + backlog
    (without the flush requests in it), and the monitor's figures.
    """


class WriteQueue(PartitionKeys):
    """One partition. Methods raise `QueueUnavailable` when Redis cannot be asked, or its kinds `QueueFull` (Redis is
    out of memory) and `GroupMissing` (the consumer group is gone).

    `reader` is the client for blocking reads; without one `read_new` cannot wait, and raises `TypeError` if it should.
    Of an entry with more than `largest_entry` bytes, reads return only the short fields (default: no limit).
    """

    def __init__(
        self,
        redis: Redis,
        queue: QueueRef,
        partition: int,
        *,
        reader: Redis | None = None,
        largest_entry: int | None = None,
    ) -> None:
        super().__init__(queue, partition)
        self.ref = queue
        self.partition = partition
        self._redis = redis
        self._reader = reader
        self._largest_entry = UNLIMITED if largest_entry is None else largest_entry
        self._append = lua.Script(redis, lua.APPEND)
        self._read_all = lua.Script(redis, lua.READ_ALL)
        self._read_new = lua.Script(redis, lua.READ_NEW)
        self._read_delivered = lua.Script(redis, lua.READ_DELIVERED)
        self._acknowledge = lua.Script(redis, lua.ACKNOWLEDGE)
        self._dead_letter = lua.Script(redis, lua.DEAD_LETTER)
        self._trim_dead = lua.Script(redis, lua.TRIM_DEAD)
        self._begin_alone = lua.Script(redis, lua.BEGIN_ALONE)
        self._mark = lua.Script(redis, lua.MARK)
        self._statistics = lua.Script(redis, lua.STATISTICS)
        self._now = lua.Script(redis, lua.NOW)
        self._turn = lua.Script(redis, lua.TURN)
        self._lease = lua.Script(redis, lua.LEASE)

    async def append(self, fields: Fields, *, max_backlog: int, unless_dead: bool = False) -> AppendResult:
        """Append one request, as `append_all` does."""
        [result] = await self.append_all([fields], max_backlog=max_backlog, unless_dead=unless_dead)
        return result

    async def append_all(
        self, requests: Sequence[Fields], *, max_backlog: int, unless_dead: bool = False
    ) -> list[AppendResult]:
        """Append requests, in one exchange and in order, as long as the stream holds fewer than `max_backlog` entries.

        A request is not appended when it is in the stream already: the latest entry with its request id and of its
        caller has the same reply address. With `unless_dead`, nor when the latest such dead letter has.
        """
        args: list[str | bytes | int] = [max_backlog, "1" if unless_dead else ""]
        for fields in requests:
            flat = [part for item in fields.items() for part in item]
            args += [fields[b"id"], fields.get(b"reply", b""), len(flat), *flat]
        with translated_errors():
            answers: list[tuple[int, bytes]] = await self._append(keys=self.appending_keys, args=args)
        return [_append_result(code, value) for code, value in answers]

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

    async def read_delivered(self, *, after: str, count: int, max_bytes: int) -> list[StreamEntry]:
        """Return up to `count` entries that were delivered to anybody and not acknowledged, in order, those behind the
        entry `after` ("0": from the first). Fewer once they have `max_bytes`, but at least one if there is any.

        They belong to this drain from then on, and this counts as a delivery of them.
        """
        return await self._read(self._read_delivered, GROUP, CONSUMER, after, count, max_bytes)

    async def read_new(
        self, *, after: str, count: int, max_bytes: int, block: timedelta = timedelta(0)
    ) -> list[StreamEntry]:
        """Return up to `count` entries behind the entry `after` ("0": from the first), after waiting up to `block` for
        a new one. Fewer once they have `max_bytes`, but at least one if there is any.

        Before new entries come those that another drain was given meanwhile: so both read everything, in order.

        Never cancel it: the server may have delivered entries already, and only `read_delivered` would return them.
        """
        entries = await self._read(self._read_new, GROUP, CONSUMER, after, count, max_bytes)
        block_ms = math.ceil(block.total_seconds() * 1000)
        if entries or block_ms <= 0:  # BLOCK 0 would wait for ever
            return entries
        if self._reader is None:
            raise TypeError("This WriteQueue has no reader: create it with reader=.")
        with translated_errors():
            reply: Any = await self._reader.xreadgroup(GROUP, CONSUMER, {self.stream_key: ">"}, count=1, block=block_ms)
        if not reply:
            return []
        [[_stream, [[entry_id, fields]]]] = reply
        first = StreamEntry.of(entry_id.decode(), fields)
        entries = await self._read(self._read_new, GROUP, CONSUMER, after, count, max_bytes)
        if first.position > position(after):
            return entries  # it is among them, behind what another drain was given before
        return [shortened(first, self._largest_entry), *entries]  # Redis lost its data, and began anew

    async def entry(self, entry_id: str) -> StreamEntry | None:
        """Return one entry, or None when it is gone."""
        with translated_errors():
            found: Any = await self._redis.xrange(self.stream_key, min=entry_id, max=entry_id)
        return next((shortened(StreamEntry.of(entry_id, fields), self._largest_entry) for _, fields in found), None)

    async def entries(self, *, after: str, count: int, max_bytes: int) -> list[StreamEntry]:
        """Return entries like `read_new`, but without delivering them."""
        return await self._read(self._read_all, after, count, max_bytes)

    async def _read(self, script: lua.Script, *args: str | int) -> list[StreamEntry]:
        with translated_errors():
            return read_entries(await script(keys=[self.stream_key], args=[*args, self._largest_entry]))

    async def now_ms(self) -> int:
        """Return milliseconds since the epoch, by the clock that stamps entry ids."""
        with translated_errors():
            return int(await self._now(keys=[self.stream_key]))

    async def next_turn(
        self, *, pace: float | None, max_rate: float | None, partitions: int, asks: bool, rows: int
    ) -> float:
        """Take the next turn to begin a transaction, when this drain `asks` for one; return the seconds until it comes.

        All drains of the queue, one for each of its `partitions`, share `pace` transactions and `max_rate` rows per
        second (None: as many as there are). `rows` are those of transactions that this drain has begun since the last
        call. Who has taken a turn must not take another one before it has come.
        """
        with translated_errors():
            wait_us = await self._turn(
                keys=[turns_key(self.ref)], args=[_micros(pace), _micros(max_rate), int(asks), rows, partitions]
            )
        return int(wait_us) / 1e6

    async def note_reader(self, holds_for: timedelta) -> None:
        """Note that a drain reads the stream, so that nobody has to wake one."""
        with translated_errors():
            await self._redis.set(self.reader_key, b"", px=holds_for)

    async def forget_reader(self) -> None:
        """Note that no drain reads the stream any more."""
        with translated_errors():
            await self._redis.delete(self.reader_key)

    async def is_unread(self) -> bool:
        """Whether there are entries, and no drain that is known to read the stream."""
        with translated_errors():
            return bool(await self._redis.xlen(self.stream_key)) and not await self._redis.exists(self.reader_key)

    async def may_wake(self, lease: timedelta) -> bool:
        """Return whether this worker may wake the drain. If so, no other worker may for the time of `lease`."""
        return await self._may(self.waking_key, "waking", lease)

    async def note_target(self, state: TargetState, holds_for: timedelta) -> None:
        """Tell the other drains of the queue the state of their target."""
        with translated_errors():
            await self._redis.set(target_key(self.ref), state.value, px=holds_for)

    async def may_probe(self, lease: timedelta) -> bool:
        """Return whether this drain may try a target that was away. If so, no other drain may for the time of `lease`,
        or until the state is noted.
        """
        return await self._may(target_key(self.ref), TargetState.PROBING.value, lease, open_as=TargetState.BACK.value)

    async def _may(self, key: str, held_as: str, lease: timedelta, *, open_as: str = "") -> bool:
        """Take the lease `key`, unless somebody has it; always true while it is `open_as`."""
        lease_ms = lease // timedelta(milliseconds=1)
        with translated_errors():
            return bool(await self._lease(keys=[key], args=[held_as, lease_ms, open_as]))

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
        in the stream. Another request that has got the id of one, after a failover, is left.
        """
        # One argument: redis-py would take longer to send four for each entry than the server to forget it.
        told = [_told(entry, outcome) for entry, outcome in entries]
        with translated_errors():
            return int(await self._acknowledge(keys=self.keys, args=[GROUP, json.dumps(told)]))

    async def dead_letter(self, entry: StreamEntry, outcome: str, reason: str, *, max_letters: int) -> None:
        """Move an entry that cannot be written to the dead letters, with the reason, in one step. At most 3,500 of its
        fields are kept, and `MAX_DEAD_REASON_BYTES` of the reason.

        When there are `max_letters` already, the oldest is deleted, and counted as `dead_trimmed`.
        """
        kept_reason = reason.encode(errors="backslashreplace")[:MAX_DEAD_REASON_BYTES]
        with translated_errors():
            await self._dead_letter(
                keys=self.keys,
                args=[GROUP, entry.entry_id, entry.request_id, outcome, entry.counted, kept_reason, max_letters],
            )

    async def trim_dead_letters(self, *, retention: timedelta) -> int:
        """Delete the dead letters that died longer than `retention` ago, and count them as `dead_trimmed`. Returns how
        many there were.
        """
        trimmed = 0
        with translated_errors():
            while True:
                deleted = int(
                    await self._trim_dead(keys=self.keys, args=[retention // timedelta(milliseconds=1), TRIM_AT_ONCE])
                )
                trimmed += deleted
                if deleted < TRIM_AT_ONCE:
                    return trimmed

    async def mark_held(self, marks: Mapping[str, HeldMark]) -> None:
        """Mark entries as held, by their ids, for operators to see. Acknowledging an entry removes its mark."""
        await self._store(self.held_key, marks)

    async def unmark_held(self, entry_ids: Iterable[str]) -> None:
        """Remove the marks of entries that are not held any more."""
        await self._delete(self.held_key, entry_ids)

    async def held(self) -> dict[str, HeldMark]:
        """Return the marks of held entries by entry id."""
        return decode_held_marks(await self._stored(self.held_key))

    async def give_order(self, entry_id: str, order: Order, reason: str = "") -> bool:
        """Order the drain to reject or to release an entry. It looks for orders every second, and an earlier order for
        the same entry is replaced. Returns False when the entry is gone.
        """
        return await self._store(self.orders_key, {entry_id: GivenOrder(order=order, reason=reason)}) == 1

    async def orders(self) -> dict[str, GivenOrder]:
        """Return the orders by entry id that have not been carried out yet."""
        return decode_orders(await self._stored(self.orders_key))

    async def withdraw_orders(self, entry_ids: Iterable[str]) -> None:
        """Remove orders: they have been carried out, or are given up. Acknowledging an entry removes its order."""
        await self._delete(self.orders_key, entry_ids)

    async def _store(self, key: str, marks: Mapping[str, HeldMark | GivenOrder]) -> int:
        args = [text for entry_id, mark in marks.items() for text in (entry_id, encode_mark(mark))]
        if not args:
            return 0
        with translated_errors():
            return int(await self._mark(keys=[self.stream_key, key], args=args))

    async def _delete(self, key: str, entry_ids: Iterable[str]) -> None:
        if ids := list(entry_ids):
            with translated_errors():
                await self._redis.hdel(key, *ids)

    async def _stored(self, key: str) -> dict[bytes, bytes]:
        with translated_errors():
            stored: dict[bytes, bytes] = await self._redis.hgetall(key)  # type: ignore[assignment] # redis-py
        return stored

    async def count(self, counts: Mapping[str, int]) -> None:
        """Add to the counters. Counts that a dying process has not added are lost: for the monitor only."""
        with translated_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for name, number in counts.items():
                pipeline.hincrby(self.counters_key, name, number)
            await pipeline.execute()

    async def statistics(self) -> PartitionStatistics:
        """Return the state of the partition."""
        with translated_errors():
            backlog, pending, held, dead, oldest_ms, counters = await self._statistics(keys=self.keys, args=[GROUP])
        return PartitionStatistics(
            backlog=backlog,
            pending=pending,
            held=held,
            dead=dead,
            oldest_ms=oldest_ms,
            counters={name.decode(): int(value) for name, value in zip(counters[::2], counters[1::2], strict=True)},
        )


def _append_result(code: int, value: bytes) -> AppendResult:
    match code:
        case 0 | 1:
            return AppendResult(entry_id=value.decode())
        case 2:
            return AppendResult(dead=True)
        case _:
            return AppendResult(backlog=int(value))


def _micros(per_second: float | None) -> int:
    """Microseconds between two, 0 when there is no limit."""
    return round(1e6 / per_second) if per_second else 0


def _told(entry: StreamEntry, outcome: str | None) -> tuple[str, str, str, str]:
    """What scripts/acknowledge.lua is told of an entry."""
    return entry.entry_id, _text(entry.request_id), outcome or "", _text(entry.counted)


def _text(value: bytes) -> str:
    """The field of an entry for JSON; empty, which stands for anything, if it is no text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return ""
