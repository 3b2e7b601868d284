"""What waits in a queue, request by request, and those among it that are held."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.errors import InvalidEntry, QueueUnavailable
from write_batcher.models import QueueRef, ReplyAddress
from write_batcher.queue.marks import GivenOrder, HeldMark
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec, decode_reply
from write_batcher.workers.operating.known_partitions import partitions_of
from write_batcher.workers.operating.stream_ids import EntryId

PAGE_SIZE = 100
PAGE_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRequest:
    """One request that waits in a queue, decoded as far as possible."""

    entry_id: EntryId
    request_id: str
    """Of a foreign entry, whatever it has as its id."""
    age_ms: int
    """Since its first append, by the clock of Redis."""
    size_bytes: int
    table: str | None
    """None when the entry cannot be decoded."""
    reply: ReplyAddress | None
    """None when no caller is known."""
    held: HeldMark | None
    held_ms: int | None
    """For how long it has been held; None unless it is."""
    order: GivenOrder | None
    """What an operator has ordered and the drain has not carried out yet."""


class QueuedRequests:
    """The requests in all partitions of a queue. Methods raise `QueueUnavailable` when Redis cannot be asked."""

    def __init__(self, redis: Redis, queue: QueueRef, data_converter: DataConverter = DataConverter.default) -> None:
        self._redis = redis
        self._queue = queue
        self._codec = Codec(data_converter)

    async def select(self, *, only_held: bool) -> AsyncIterator[QueuedRequest]:
        """Yield all requests, or those that are held, by partition and in their order.

        Those that come while it goes on may or may not be among them. Raises `OperationFailed` when the queue has never
        been used.
        """
        for partition in await partitions_of(self._redis, self._queue):
            stream = WriteQueue(self._redis, self._queue, partition.partition)
            held, orders, now_ms = await stream.held(), await stream.orders(), await stream.now_ms()
            async for entry in _entries(stream, held if only_held else None):
                if b"control" not in entry.fields:
                    yield await self._described(partition.partition, entry, held, orders, now_ms)

    async def _described(
        self,
        partition: int,
        entry: StreamEntry,
        held: Mapping[str, HeldMark],
        orders: Mapping[str, GivenOrder],
        now_ms: int,
    ) -> QueuedRequest:
        mark = held.get(entry.entry_id)
        table, reply = None, None
        try:
            reply = decode_reply(entry.fields)
            table = (await self._codec.decode(entry.fields)).table
        except (InvalidEntry, QueueUnavailable):
            pass  # shown without what cannot be read
        return QueuedRequest(
            entry_id=EntryId.at(partition, entry.entry_id),
            request_id=entry.request_id.decode(errors="backslashreplace"),
            age_ms=max(now_ms - entry.first_ms, 0),
            size_bytes=entry.size_bytes,
            table=table,
            reply=reply,
            held=mark,
            held_ms=max(now_ms - mark.since_ms, 0) if mark else None,
            order=orders.get(entry.entry_id),
        )


async def _entries(stream: WriteQueue, held: Mapping[str, HeldMark] | None) -> AsyncIterator[StreamEntry]:
    """The entries in order; with `held`, only these."""
    if held is not None:
        for entry_id in sorted(held, key=lambda one: EntryId.at(0, one)):
            if (entry := await stream.entry(entry_id)) is not None:
                yield entry
        return
    after = "0"
    while page := await stream.entries(after=after, count=PAGE_SIZE, max_bytes=PAGE_BYTES):
        for entry in page:
            yield entry
        after = page[-1].entry_id
