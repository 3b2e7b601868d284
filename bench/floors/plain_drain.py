"""The floor: read, decode, insert in one transaction, acknowledge and delete. Nothing else."""

import json
from collections.abc import Callable
from typing import Any

from redis import Redis
from temporalio.api.common.v1 import Payload

from write_batcher.bench.record_shapes import RecordShape, Row

GROUP = "floor"
CONSUMER = "floor"

Insert = Callable[[list[Row]], None]
"""Inserts rows in one transaction."""

Decrypt = Callable[[Payload], Payload]


def drain(redis: Redis, stream: str, batch_size: int, shape: RecordShape, insert: Insert, decrypt: Decrypt) -> int:
    """Write everything in the stream in batches of `batch_size`, without an event loop. Returns how many rows."""
    rows = 0
    while entries := _read(redis, stream, batch_size):
        insert([shape.row(_record(fields[b"payload"], decrypt)) for _, fields in entries])
        _forget(redis, stream, [entry_id for entry_id, _ in entries])
        rows += len(entries)
    return rows


def create_group(redis: Redis, stream: str) -> None:
    """Create the consumer group that `drain` reads in, at the beginning of the stream."""
    redis.xgroup_create(stream, GROUP, id="0")


def _read(redis: Redis, stream: str, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
    reply: Any = redis.xreadgroup(GROUP, CONSUMER, {stream: ">"}, count=count)
    return reply[0][1] if reply else []


def _record(payload: bytes, decrypt: Decrypt) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(decrypt(Payload.FromString(payload)).data)["record"]
    return record


def _forget(redis: Redis, stream: str, entry_ids: list[bytes]) -> None:
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.xack(stream, GROUP, *entry_ids)
        pipeline.xdel(stream, *entry_ids)
        pipeline.execute()
