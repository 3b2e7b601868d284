"""A drain in a process of its own, so that its memory is nobody else's.

`python -m write_batcher.bench.memory_drain ours|executemany REDIS_URL DATABASE_FILE REQUESTS BATCH_SIZE`
"""

import asyncio
import os
import sys
from contextlib import closing
from pathlib import Path

from write_batcher.bench.memory_plan import OURS


async def drain(redis_url: str, database: Path, requests: int, batch_size: int) -> int:
    """Drain the queue as a batcher does, and return how many rows were written."""
    from temporalio.converter import DataConverter

    from write_batcher.bench.filled_queue import WORK_QUEUE
    from write_batcher.bench.fresh_databases import SqliteFile
    from write_batcher.bench.own_drain import OwnDrain
    from write_batcher.bench.record_shapes import PLAIN

    own = OwnDrain(redis_url, WORK_QUEUE, DataConverter.default, batch_size=batch_size)
    _, progress = await own.run(SqliteFile(database).url, PLAIN.table, requests, {})
    return progress.written


def drain_plainly(redis_url: str, database: Path, batch_size: int) -> int:
    """Drain the queue as the floor does, and return how many rows were written."""
    from redis import Redis

    from write_batcher.bench.filled_queue import WORK_QUEUE
    from write_batcher.bench.floors import plain_drain
    from write_batcher.bench.floors.sqlite_inserts import executemany
    from write_batcher.bench.fresh_databases import SqliteFile
    from write_batcher.bench.record_shapes import PLAIN
    from write_batcher.queue.keys import PartitionKeys

    stream = PartitionKeys(WORK_QUEUE, 0).stream_key
    with Redis.from_url(redis_url, protocol=2) as redis, closing(SqliteFile(database).connect()) as connection:
        plain_drain.create_group(redis, stream)
        insert = executemany(connection, PLAIN)
        return plain_drain.drain(redis, stream, batch_size, PLAIN, insert, lambda payload: payload)


def main(role: str, redis_url: str, database: str, requests: str, batch_size: str) -> None:
    """Drain, and print how many rows were written."""
    if role == OURS:
        rows = asyncio.run(drain(redis_url, Path(database), int(requests), int(batch_size)))
    else:
        rows = drain_plainly(redis_url, Path(database), int(batch_size))
    sys.stdout.write(f"{rows}\n")
    sys.stdout.flush()
    os._exit(0)  # a process that used temporalio may abort while Python exits (sdk-python#300)


if __name__ == "__main__":
    main(*sys.argv[1:])
