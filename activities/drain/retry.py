"""The stage beside reading and taking: tries held entries again, in batches of their own."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from write_batcher.activities.drain.age import AgeLimit
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.bell import Bell
from write_batcher.activities.drain.clock import ServerClock
from write_batcher.activities.drain.decode import Decoder
from write_batcher.activities.drain.hold import Pen
from write_batcher.activities.drain.items import (
    ClosedBatch,
    DecodedEntry,
    HeldEntry,
    Retry,
    RetryBatch,
)
from write_batcher.activities.drain.lane import Lane
from write_batcher.activities.drain.receipt_text import printable
from write_batcher.errors import CodecUnavailable, InvalidEntry, QueueUnavailable
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import StreamEntry

MAX_UNDER_WAY = 500  # keys whose entries are being read, decoded and tried
MAX_UNDER_WAY_BYTES = 16 * 1024 * 1024
READS_AT_ONCE = 8  # of the 32 connections to Redis
REST = 4  # times as long as tries in vain have kept the writer from its batches, they let it alone


class Retrier:
    """Prepares what is due in the pen, many lines at once, and hands it to the writer, one batch after the other."""

    def __init__(
        self,
        queue: WriteQueue,
        decoder: Decoder,
        pen: Pen,
        lane: Lane,
        *,
        limits: Callable[[], BatchLimits],
        age: AgeLimit,
        clock: ServerClock,
        bell: Bell,
        stopping: asyncio.Event,
        reject: Callable[[StreamEntry, str], Awaitable[None]],
        carried_out: Callable[[Sequence[HeldEntry]], None],
    ) -> None:
        self._queue = queue
        self._decoder = decoder
        self._pen = pen
        self._lane = lane
        self._limits = limits
        self._age = age
        self._clock = clock
        self._bell = bell
        self._stopping = stopping
        self._reject = reject
        self._carried_out = carried_out
        self._under_way: dict[bytes, int] = {}  # the bytes of the entries that are tried, by key
        self._ready: deque[list[Retry]] = deque()
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        self._not_before = 0.0

    async def run(self, closed: "asyncio.Queue[ClosedBatch | RetryBatch | None]") -> None:
        """Try until the drain is stopped; what is held then stays pending."""
        async with asyncio.TaskGroup() as group:
            preparing: set[asyncio.Task[None]] = set()
            while not self._stopping.is_set():
                for held in iter(self._next_line, []):
                    task = group.create_task(self._prepare(held), name="prepare")
                    preparing.add(task)
                    task.add_done_callback(preparing.discard)
                if self._ready and self._seconds_to_rest() <= 0:
                    await self._try(self._next_batch(), closed)
                else:
                    await self._bell.wait(self._seconds_to_wait())
            for task in preparing:
                task.cancel()

    def _next_line(self) -> list[HeldEntry]:
        """What to prepare next; empty when nothing is due, or no room for it."""
        if not self._has_room():
            return []
        limits = self._limits()
        held = self._pen.take_due(count=limits.max_items, max_bytes=limits.max_bytes)
        if held:
            self._under_way[held[0].entry.order_key] = _bytes_of(held)
        return held

    def _has_room(self) -> bool:
        return len(self._under_way) < MAX_UNDER_WAY and sum(self._under_way.values()) < MAX_UNDER_WAY_BYTES

    def _seconds_to_rest(self) -> float:
        return self._not_before - asyncio.get_running_loop().time()

    def _seconds_to_wait(self) -> float | None:
        """Until something is due. None when only a ring can change anything."""
        if self._ready:
            return self._seconds_to_rest()
        due = self._pen.next_due()
        if due is None or not self._has_room():
            return None
        return due - asyncio.get_running_loop().time()

    async def _prepare(self, held: list[HeldEntry]) -> None:
        """Read and decode entries of one line: those before the first that cannot be decoded now."""
        prepared = await asyncio.gather(*map(self._prepared, held))
        ready = []
        for one, outcome in zip(held, prepared, strict=True):
            if isinstance(outcome, DecodedEntry):
                ready.append(Retry(decoded=outcome, held=one))
            elif outcome is not None:
                self._pen.failed(one, outcome)
                break
        if not ready:
            self._end(held[0].entry.order_key)
            return
        if self._pen.is_urgent(ready[0].held):
            self._ready.appendleft(ready)
            self._not_before = 0.0
        else:
            self._ready.append(ready)
        self._bell.ring()

    async def _prepared(self, held: HeldEntry) -> DecodedEntry | str | None:
        """The entry with its request; why it cannot be decoded now; or None when it has left the pen."""
        try:
            async with self._reading:
                entry = await self._queue.entry(held.entry.entry_id)
        except QueueUnavailable as error:
            return held.reason or printable(str(error))
        if entry is None:  # somebody deleted it, or Redis has lost it
            self._pen.remove(held)
            self._lane.release([held.entry], redeliver=False)
            return None
        held.refused = held.refused or self._age.refusal(entry)
        try:
            request = await self._decoder.decode(entry)
        except CodecUnavailable as error:
            if held.refused is None:
                return printable(str(error))
            unsettled = held.refused
        except InvalidEntry as error:
            unsettled = str(error)
        else:
            if held.refused is None or not self._age.is_forgotten(entry):
                return DecodedEntry(entry=entry.without_fields(), request=request)
            unsettled = held.refused
        # The ledger cannot be asked about it, or may have forgotten it.
        self._pen.remove(held)
        await self._reject(entry, unsettled)
        return None

    def _next_batch(self) -> list[list[Retry]]:
        """Whole lines, as many as fit into a batch; an entry that has to be written alone by itself."""
        limits = self._limits()
        lines = [self._ready.popleft()]
        items, size_bytes, ids = len(lines[0]), _bytes_in(lines[0]), _ids_in(lines[0])
        while self._ready and not _is_alone(lines[0]):
            line = self._ready[0]
            items += len(line)
            size_bytes += _bytes_in(line)
            too_much = items > limits.max_items or size_bytes > limits.max_bytes
            if too_much or _is_alone(line) or ids & _ids_in(line):
                break
            lines.append(self._ready.popleft())
            ids |= _ids_in(line)
        return lines

    async def _try(self, lines: list[list[Retry]], closed: "asyncio.Queue[ClosedBatch | RetryBatch | None]") -> None:
        held = [one.held for line in lines for one in line]
        keys = [line[0].held.entry.order_key for line in lines]
        batch = RetryBatch(items=deque(one for line in lines for one in line), closed_ms=self._clock.now_ms())
        lines.clear()  # the writer lets go of the records
        await closed.put(batch)
        await batch.done
        for key in keys:
            self._end(key)
        # Or a table that is locked would cost the others most of the writer's time.
        if all(self._pen.get(one.entry.entry_id) is one for one in held):
            self._not_before = asyncio.get_running_loop().time() + REST * batch.seconds

    def _end(self, key: bytes) -> None:
        del self._under_way[key]
        self._carried_out(self._pen.end_try(key))


def _is_alone(line: list[Retry]) -> bool:
    return any(one.held.alone or one.held.refused for one in line)


def _ids_in(line: list[Retry]) -> set[bytes]:
    return {one.held.entry.request_id for one in line}


def _bytes_in(line: list[Retry]) -> int:
    return sum(one.held.entry.size_bytes for one in line)


def _bytes_of(held: list[HeldEntry]) -> int:
    return sum(one.entry.size_bytes for one in held)
