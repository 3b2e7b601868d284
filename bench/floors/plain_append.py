"""The floor of appending: XADD of bytes that are ready, without a script, a contract or a check for duplicates."""

from collections.abc import Sequence

from redis.asyncio import Redis

from write_batcher.queue.wire_form import Fields


async def append(redis: Redis, stream: str, fields: Fields) -> None:
    """Append one entry."""
    await redis.xadd(stream, fields)  # type: ignore[arg-type] # invariant


async def append_all(redis: Redis, stream: str, entries: Sequence[Fields]) -> None:
    """Append entries in one exchange, not in one transaction."""
    async with redis.pipeline(transaction=False) as pipeline:
        for fields in entries:
            pipeline.xadd(stream, fields)  # type: ignore[arg-type] # invariant
        await pipeline.execute()
