"""Short forms for tests of one partition: entries, reading them, and what is left."""

import json
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

from write_batcher.models import QueueRef
from write_batcher.queue.contract import Terms
from write_batcher.queue.stream import AppendResult, WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Fields

BACKLOG = 1000
MAX_BYTES = 1_000_000
MAX_LETTERS = 10_000
TERMS = Terms(
    sink_id="sink-1",
    partitions=1,
    tables={"orders": "insert"},
    max_wait_ms=20_000,
    max_items=100,
    max_request_bytes=10_000,
    max_backlog=BACKLOG,
)


def queue_ref(name: str, namespace: str = "default") -> QueueRef:
    return QueueRef(namespace=namespace, name=name)


def fields(request_id: str, payload: bytes = b"p", *, reply: bytes = b"") -> Fields:
    return {b"v": b"1", b"id": request_id.encode(), b"reply": reply, b"payload": payload}


def reply_of(workflow_id: str, *, run_id: str = "run", attempt: str = "1") -> bytes:
    """The reply address of a caller."""
    return json.dumps({"mode": "signal", "workflow_id": workflow_id, "run_id": run_id, "attempt": attempt}).encode()


async def append(
    queue: WriteQueue,
    request_id: str,
    payload: bytes = b"p",
    *,
    reply: bytes = b"",
    max_backlog: int = BACKLOG,
    unless_dead: bool = False,
) -> AppendResult:
    return await queue.append(
        fields(request_id, payload, reply=reply), max_backlog=max_backlog, unless_dead=unless_dead
    )


async def appended(queue: WriteQueue, request_id: str, payload: bytes = b"p", *, reply: bytes = b"") -> str:
    """The entry id of a request that is in the stream now."""
    entry_id = (await append(queue, request_id, payload, reply=reply)).entry_id
    assert entry_id is not None
    return entry_id


async def take(queue: WriteQueue, *, after: str = "0", count: int = BACKLOG) -> list[StreamEntry]:
    """What a drain reads that has not read anything behind `after`."""
    await queue.ensure_group()
    return await queue.read_new(after=after, count=count, max_bytes=MAX_BYTES)


async def redelivered(queue: WriteQueue, *, after: str = "0", count: int = BACKLOG) -> list[StreamEntry]:
    """What a drain recovers."""
    return await queue.read_delivered(after=after, count=count, max_bytes=MAX_BYTES)


async def all_entries(queue: WriteQueue) -> list[StreamEntry]:
    return await queue.entries(after="0", count=BACKLOG, max_bytes=MAX_BYTES)


def as_written(entries: Iterable[StreamEntry]) -> list[tuple[StreamEntry, str | None]]:
    return [(entry, "written") for entry in entries]


def ids_of(entries: Iterable[StreamEntry]) -> list[str]:
    """Their request ids."""
    return [entry.request_id.decode() for entry in entries]


async def die(queue: WriteQueue, *entries: StreamEntry, reason: str = "no such table") -> None:
    for entry in entries:
        await queue.dead_letter(entry, "rejected", reason, max_letters=MAX_LETTERS)


async def dead_letters(redis: Redis, queue: WriteQueue) -> list[Fields]:
    entries: Any = await redis.xrange(queue.dead_key)
    return [fields for _, fields in entries]


async def state_of(queue: WriteQueue) -> tuple[int, int, int]:
    """The number of entries in the stream, of pending ones, and of dead letters."""
    statistics = await queue.statistics()
    return statistics.backlog, statistics.pending, statistics.dead
