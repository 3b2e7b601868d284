"""A queue that is filled once, through the real encoding, and of which every run drains a copy."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.bench.cases import CaseTraits
from write_batcher.bench.record_shapes import TAKEN_ID, order_id
from write_batcher.errors import WrongWork
from write_batcher.models import QueueRef, ReplyAddress, WriteRequest
from write_batcher.queue.keys import PartitionKeys
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import size_of
from write_batcher.queue.wire_form import Codec

NAMESPACE = "bench"
WORK_QUEUE = QueueRef(namespace=NAMESPACE, name="work")
APPENDED_AT_ONCE = 500  # in one exchange; Redis does nothing else meanwhile
RUN_ID_SPACE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledQueue:
    """Streams with `requests` entries that nobody drains, to take copies of."""

    ref: QueueRef
    requests: int
    """In all partitions together."""
    bad: int
    """How many of the records have the primary key `TAKEN_ID`."""
    entry_bytes: int
    """Mean size of an entry, names and values of its fields."""
    partitions: int = 1

    async def copy_to(self, redis: Redis, target: QueueRef) -> None:
        """Put a copy, undelivered, in place of the same partitions of another queue. Redis does it in one step per key,
        so it takes a fraction of the time of filling a stream, and all runs find the same bytes.
        """
        for partition in range(self.partitions):
            sources, targets = PartitionKeys(self.ref, partition).keys, PartitionKeys(target, partition).keys
            await redis.delete(*targets)
            for source, copy in zip(sources, targets, strict=True):
                if await redis.exists(source):
                    await redis.copy(source, copy)


async def fill(
    redis: Redis,
    name: str,
    traits: CaseTraits,
    converter: DataConverter,
    *,
    requests: int,
    batch_size: int,
    partitions: int = 1,
) -> FilledQueue:
    """Append the requests of a case to the queue `name`, the same number to each of its partitions: `requests` must be
    a multiple of `partitions`.

    With bad records the middle one of every `batch_size` is bad, so that batches of that size have one each. Raises
    `WrongWork` when not every request was appended.
    """
    ref = QueueRef(namespace=NAMESPACE, name=name)
    codec = Codec(converter)
    size = bad = 0
    share = requests // partitions
    for partition in range(partitions):
        stream = WriteQueue(redis, ref, partition)
        end = (partition + 1) * share
        for first in range(partition * share, end, APPENDED_AT_ONCE):
            numbers = range(first, min(first + APPENDED_AT_ONCE, end))
            chunk = []
            for request, is_bad in requests_of(traits, numbers, batch_size):
                fields = await codec.encode(request)
                chunk.append(fields)
                bad += is_bad
                size += size_of(fields)
            await stream.append_all(chunk, max_backlog=share)
        backlog = await redis.xlen(stream.stream_key)
        if backlog != share:
            raise WrongWork(f"The stream was to be filled with {share} requests and has {backlog}.")
    return FilledQueue(ref=ref, requests=requests, bad=bad, entry_bytes=round(size / requests), partitions=partitions)


def requests_of(traits: CaseTraits, numbers: range, batch_size: int) -> Iterator[tuple[WriteRequest, bool]]:
    """Yield requests as workflows make them, one each, and whether the record is bad: with bad records the middle one
    of every `batch_size` is.
    """
    now_ms = int(time.time() * 1000)  # a request that was made long ago would not be written
    for number in numbers:
        record = traits.shape.record(number)
        is_bad = traits.one_bad and number % batch_size == batch_size // 2
        if is_bad:
            record["id"] = TAKEN_ID
        caller = f"order-workflow-{number:08d}"
        yield (
            WriteRequest(
                request_id=order_id(number),
                table=traits.shape.table,
                record=record,
                reply=ReplyAddress(
                    workflow_id=caller,
                    run_id=str(uuid.uuid5(RUN_ID_SPACE, caller)),
                    attempt=f"{number * 0x9E3779B97F4A7C15 % 2**63:x}-1",
                    mode=traits.confirm_by,
                ),
                asked_ms=now_ms,
            ),
            is_bad,
        )
