"""The first stage of the drain: reads the stream and decodes what it finds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from write_batcher.activities.drain.age import AgeLimit
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.bell import Bell
from write_batcher.activities.drain.clock import ServerClock
from write_batcher.activities.drain.decode import Decoded, Decoder
from write_batcher.activities.drain.hold import Pen
from write_batcher.activities.drain.items import DecodedEntry, FlushMark, HeldEntry, Item
from write_batcher.activities.drain.lane import Lane
from write_batcher.activities.drain.receipt_text import printable
from write_batcher.activities.drain.take import Taker
from write_batcher.activities.drain.watch import Watch
from write_batcher.errors import CodecUnavailable, InvalidEntry, QueueUnavailable
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import FLUSH_FIELDS, StreamEntry, position

ALONE_AFTER_DELIVERIES = 3  # restarts count too and prove nothing, so such an entry is only quarantined: written alone
LONGEST_BLOCK = timedelta(seconds=2)  # Redis 6.2 does not wake a blocked reader whose stream was deleted
STEP_LIMIT = timedelta(seconds=30)  # for one exchange with Redis, whose client gives up by itself after 7 s
BACKOFF = Backoff(0.2, 2.0)
MAX_DECODING = 1_000  # entries at once; those of a key server that hangs take this room for `DECODE_LIMIT`
MAX_DECODING_BYTES = 16 * 1024 * 1024
USUALLY_DECODED_IN = timedelta(seconds=0.3)  # a batch that is due waits no longer for an entry
STOP_DECODING_WITHIN = timedelta(seconds=1)

logger = logging.getLogger(__name__)


class Reader:
    """Reads one partition. At the start and after every lost connection it recovers the entries that were delivered
    before and not acknowledged.

    What may be written goes to the taker. Entries that cannot be decoded now, have been delivered suspiciously often or
    must not be written go to the pen; so does what has the key of a held entry. When others with the same key are on
    their way to the writer, it goes there too, behind them, and the writer puts it into the pen.
    """

    def __init__(
        self,
        queue: WriteQueue,
        decoder: Decoder,
        taker: Taker,
        *,
        pen: Pen,
        lane: Lane,
        age: AgeLimit,
        clock: ServerClock,
        watch: Watch,
        bell: Bell,
        stopping: asyncio.Event,
        reject: Callable[[StreamEntry, str], Awaitable[None]],
        look_for_orders: Callable[[], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._decoder = decoder
        self._taker = taker
        self._pen = pen
        self._lane = lane
        self._age = age
        self._clock = clock
        self._watch = watch
        self._bell = bell
        self._stopping = stopping
        self._reject = reject
        self._look_for_orders = look_for_orders
        self._recovery_wanted = True
        self._recovering_after: str | None = None  # set while a recovery reads
        self._position = "0"  # the id of the latest entry that has been read
        self._caught_up = False
        self._decoding: dict[asyncio.Task[None], int] = {}  # with the bytes of their entries
        self._recently_begun: set[str] = set()
        self._latest_of_key: dict[bytes, asyncio.Task[None]] = {}
        self.idle_since = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Read until the drain is stopped. Never cancel it for that: the server may have delivered entries already, and
        they would stay pending.
        """
        async with asyncio.TaskGroup() as decoding:
            failures = 0
            while not self._stopping.is_set():
                if not self._has_room():
                    await self._bell.wait()
                    continue
                try:
                    await self._read_once(decoding)
                    failures = 0
                except QueueUnavailable as error:
                    self._recovery_wanted = True
                    failures += 1
                    self._note_caught_up(True)  # what has been taken need not wait for Redis
                    logger.warning("reading %s failed, trying again: %s", self._queue.stream_key, error)
                    await BACKOFF.wait(failures, self._stopping)
            if self._decoding:
                await asyncio.wait(self._decoding, timeout=STOP_DECODING_WITHIN.total_seconds())
            for task in list(self._decoding):
                task.cancel()
        self._taker.end()

    def _has_room(self) -> bool:
        return (
            self._taker.room > 0
            and not self._pen.is_full
            and len(self._decoding) < MAX_DECODING
            and sum(self._decoding.values()) < MAX_DECODING_BYTES
        )

    async def _read_once(self, decoding: asyncio.TaskGroup) -> None:
        # Copied before the read, so that what is confirmed during the read is not taken again.
        in_flight = self._lane.snapshot()
        with self._watch.step("reading the stream", STEP_LIMIT + LONGEST_BLOCK):
            entries = await self._read(count=self._taker.room, max_bytes=self._taker.room_bytes)
            await self._clock.refresh()
        flushes: list[tuple[StreamEntry, None]] = []
        oldest_ms = self._age.oldest_ms()
        taken = [entry for entry in entries if entry.entry_id not in in_flight]
        decoded = await self._decoded_at_once(taken, oldest_ms)
        for entry in taken:
            if entry.fields == FLUSH_FIELDS:
                flushes.append((entry, None))
                self._put_flush_mark(decoding)
            else:
                await self._admit(entry, oldest_ms, decoded.get(entry.entry_id), decoding)
        if flushes:
            await self._queue.acknowledge(flushes)

    async def _read(self, *, count: int, max_bytes: int) -> list[StreamEntry]:
        """Up to `count` entries: first those of a recovery, then new ones."""
        if self._recovery_wanted:
            await self._begin_recovery()
        if self._recovering_after is not None:
            entries = await self._queue.read_delivered(after=self._recovering_after, count=count, max_bytes=max_bytes)
            self._recovering_after = entries[-1].entry_id if entries else None
            if entries and entries[-1].position > position(self._position):
                self._position = entries[-1].entry_id
            return entries
        # After a read of new entries, not before it: entries that are redelivered repeatedly must not hold up new ones.
        if self._lane.redelivery_wanted:
            self._lane.redelivery_wanted, self._recovery_wanted = False, True
        block = LONGEST_BLOCK if self._caught_up and not self._recovery_wanted else timedelta(0)
        entries = await self._queue.read_new(after=self._position, count=count, max_bytes=max_bytes, block=block)
        if entries:
            self._position = entries[-1].entry_id
            self.idle_since = asyncio.get_running_loop().time()
        is_all = len(entries) < count and sum(entry.size_bytes for entry in entries) < max_bytes
        self._note_caught_up(is_all and not self._recovery_wanted)
        return entries

    async def _begin_recovery(self) -> None:
        self._recovery_wanted = False  # first, as other stages may ask for the next recovery during this one
        self._note_caught_up(False)
        await self._clock.refresh(always=True)
        await self._queue.ensure_group()
        await self._look_for_orders()  # those given while no drain was there: before anything is written
        self._recovering_after = "0"

    async def _decoded_at_once(self, entries: list[StreamEntry], oldest_ms: int) -> dict[str, Decoded]:
        """What a payload codec can decode at once, by entry id; nothing while others are still being decoded."""
        if self._decoder.is_instant or self._decoding:
            return {}
        return await self._decoder.decode_at_once(
            entry
            for entry in entries
            if self._held_at_once(entry, oldest_ms) is None and self._decoder.objection(entry) is None
        )

    async def _admit(
        self, entry: StreamEntry, oldest_ms: int, decoded: Decoded | None, decoding: asyncio.TaskGroup
    ) -> None:
        """Take one entry, which may have been `decoded`. When this raises, the next recovery takes it again."""
        self._lane.take(entry)
        objection = self._decoder.objection(entry)
        if objection is not None:
            await self._reject(entry, objection)
            return
        held = self._held_at_once(entry, oldest_ms)
        if not self._lane.on_their_way(entry):
            if held is None and self._pen.blocks(entry.order_key):
                held = HeldEntry(entry=entry.without_fields())
            if held is not None:
                self._pen.add(held)
                return
        self._lane.enter(entry)
        if held is None and decoded is None and not self._decoder.is_instant:
            self._decode_in_turn(entry, None, decoding)
            return
        item = held or await self._decoded(entry, decoded)
        if item is not None and entry.order_key in self._latest_of_key:
            self._decode_in_turn(entry, item, decoding)
        else:
            self._put(item, entry)

    def _held_at_once(self, entry: StreamEntry, oldest_ms: int) -> HeldEntry | None:
        refused = self._pen.refusals.get(entry.entry_id)
        if refused is None and entry.first_ms < oldest_ms:
            refused = self._age.refusal(entry)
        suspect = entry.deliveries >= ALONE_AFTER_DELIVERIES
        if refused is None and not suspect:
            return None
        return HeldEntry(entry=entry.without_fields(), refused=refused, alone=suspect)

    async def _decoded(self, entry: StreamEntry, decoded: Decoded | None = None) -> Item | None:
        """The entry with its request; held when it cannot be decoded now, None when it has been rejected."""
        try:
            if isinstance(decoded, Exception):
                raise decoded
            request = decoded or await self._decoder.decode(entry)
        except CodecUnavailable as error:
            logger.warning("entry %s of %s is held: %s", entry.entry_id, self._queue.stream_key, error)
            return HeldEntry(entry=entry.without_fields(), reason=printable(str(error)), failures=1)
        except InvalidEntry as error:
            await self._reject(entry, str(error))
            return None
        return DecodedEntry(entry=entry.without_fields(), request=request)

    def _put(self, item: Item | None, entry: StreamEntry) -> None:
        if isinstance(item, HeldEntry) and self._lane.on_their_way(entry) == 1:
            self._pen.add(item)
            item = None
        if item is None:
            self._lane.leave(entry)
        else:
            self._taker.put(item)

    def _decode_in_turn(self, entry: StreamEntry, item: Item | None, decoding: asyncio.TaskGroup) -> None:
        """Decode an entry in a task of its own, unless its `item` is known. It is put behind those with its key that
        are being decoded.
        """
        key = entry.order_key
        before = self._latest_of_key.get(key)
        task = decoding.create_task(self._decode_behind(before, entry, item), name="decode in turn")
        self._latest_of_key[key] = task
        self._decoding[task] = 0 if item else entry.size_bytes

        def ended(task: "asyncio.Task[None]") -> None:
            del self._decoding[task]
            if self._latest_of_key.get(key) is task:
                del self._latest_of_key[key]
            self._bell.ring()

        task.add_done_callback(ended)

    async def _decode_behind(self, before: "asyncio.Task[None] | None", entry: StreamEntry, item: Item | None) -> None:
        if item is None:
            self._recently_begun.add(entry.entry_id)
            slow = asyncio.get_running_loop().call_later(
                USUALLY_DECODED_IN.total_seconds(), self._expect_no_more_from, entry
            )
            try:
                item = await self._decoded(entry)
            finally:
                slow.cancel()
                self._expect_no_more_from(entry)
        if before is not None:
            await asyncio.wait({before})
        self._put(item, entry)

    def _put_flush_mark(self, decoding: asyncio.TaskGroup) -> None:
        if not self._decoding:
            self._taker.put(FlushMark())
            return
        before = set(self._decoding)

        async def put_behind() -> None:
            await asyncio.wait(before)
            self._taker.put(FlushMark())

        task = decoding.create_task(put_behind(), name="flush")
        self._decoding[task] = 0
        task.add_done_callback(lambda task: self._decoding.pop(task))

    def _expect_no_more_from(self, entry: StreamEntry) -> None:
        self._recently_begun.discard(entry.entry_id)
        self._tell_taker()

    def _note_caught_up(self, caught_up: bool) -> None:
        self._caught_up = caught_up
        self._tell_taker()

    def _tell_taker(self) -> None:
        self._taker.expect_more(bool(not self._caught_up or self._recently_begun))
