"""Drains a partition in a process of its own, and prints the most memory that this has taken.

`python -m tests.support.drain_memory REDIS_URL QUEUE DATABASE_URL MAX_ITEMS`
"""

import asyncio
import logging
import os
import resource
import sys
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, Table, Text
from temporalio.testing import ActivityEnvironment

from tests.support.fakes import FakeTemporal, contract_of
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.decode import RESERVED_BYTES
from write_batcher.activities.drain.loop import Drain
from write_batcher.activities.drain.read import LONGEST_BLOCK
from write_batcher.models import PartitionRef, QueueRef
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.sql.sink import SqlSink

DOCUMENTS = Table("documents", MetaData(), Column("id", Integer, primary_key=True), Column("text", Text))


async def main(redis_url: str, name: str, database_url: str, max_items: int) -> None:
    logging.basicConfig(level=logging.WARNING)
    limits = BatchLimits(
        max_items=max_items,
        max_bytes=4 * 1024 * 1024,
        max_wait=timedelta(seconds=1),
        max_request_bytes=256 * 1024,
        max_dead_letters=1_000,
        dead_letter_retention=timedelta(days=30),
    )
    queue = QueueRef(namespace=FakeTemporal.namespace, name=name)
    async with (
        connect(redis_url) as redis,
        connect(redis_url, longest_block=LONGEST_BLOCK) as reader,
        SqlSink.open(database_url, tables=["documents"], create=[DOCUMENTS]) as sink,
    ):
        stream = WriteQueue(redis, queue, 0, reader=reader, largest_entry=limits.max_request_bytes + RESERVED_BYTES)
        drain = Drain(
            PartitionRef(queue=name, partition=0),
            ref=queue,
            queue=stream,
            sink=sink,
            limits=limits,
            contract=lambda: contract_of(sink),
            client=FakeTemporal().client,
        )
        task = asyncio.create_task(ActivityEnvironment().run(drain.run))
        while (await stream.statistics()).backlog and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        drain.stop()
        await task
    sys.stdout.write(f"{peak_megabytes()}\n")
    sys.stdout.flush()
    os._exit(0)  # a process that used temporalio may abort while Python exits (sdk-python#300)


def peak_megabytes() -> int:
    """The most memory that this process has taken. The usage that the system reports includes its parent's, from before
    this program began.
    """
    status = Path("/proc/self/status")
    if status.exists():
        [peak] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(peak) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024**2


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
