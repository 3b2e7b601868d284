"""The activities that run the loop: `drain` for one partition, and `flush` beside it."""

import asyncio
import logging
from datetime import timedelta

from redis.asyncio import Redis
from temporalio import activity

from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.loop import Drain
from write_batcher.activities.drain.take import LONGEST_BLOCK
from write_batcher.activities.queue_guard import check_queue
from write_batcher.models import DrainResult, PartitionRef
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.protocol import Sink

# Together with GIVE_UP_WITHIN of a write it must stay below the worker's grace period, `serving.SHUTDOWN_GRACE`.
STOP_WITHIN = timedelta(seconds=15)

logger = logging.getLogger(__name__)


class DrainActivities:
    """The batcher's activities for one queue. `partitions` is the configured number, announced again when Redis has
    lost it.
    """

    def __init__(
        self, *, queue: str, redis_url: str, redis: Redis, sink: Sink, limits: BatchLimits, partitions: int
    ) -> None:
        self._queue = queue
        self._redis_url = redis_url
        self._redis = redis
        self._sink = sink
        self._limits = limits
        self._partitions = partitions
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Make the drains of this worker return, also those that it starts from now on. Call it before the worker shuts
        down: the SDK does not tell a worker's first activity about a shutdown that has already begun.
        """
        self._stopping.set()

    @activity.defn
    async def drain(self, partition: PartitionRef) -> DrainResult:
        """Drain the partition for an hour, or until the worker stops or the activity is cancelled. Then finish what is
        in flight and return normally, so that the next drain can start at once.
        """
        check_queue(partition.queue, served=self._queue)
        async with connect(self._redis_url, longest_block=LONGEST_BLOCK) as reader:
            drain = Drain(
                partition,
                queue=WriteQueue(self._redis, partition.queue, partition.partition, reader=reader),
                partitions=Partitions(self._redis, partition.queue),
                configured_partitions=self._partitions,
                sink=self._sink,
                limits=self._limits,
                client=activity.client(),
            )
            return await _run_until_stopped(drain, self._stopping)

    @activity.defn
    async def flush(self, partition: PartitionRef) -> None:
        """Ask the drain of the partition to close its open batch."""
        check_queue(partition.queue, served=self._queue)
        await WriteQueue(self._redis, partition.queue, partition.partition).append_flush()


async def _run_until_stopped(drain: Drain, stop: asyncio.Event) -> DrainResult:
    logger.info("drain of %s starts", drain.partition)
    running = asyncio.create_task(drain.run(), name=f"drain {drain.partition}")
    stopping = [asyncio.create_task(stop.wait()), asyncio.create_task(activity.wait_for_worker_shutdown())]
    cancelled = False
    try:
        await asyncio.wait({running, *stopping}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        cancelled = True
    finally:
        for task in stopping:
            task.cancel()
    drain.stop()
    await asyncio.wait({running}, timeout=STOP_WITHIN.total_seconds())
    if not running.done():
        running.cancel()
        await asyncio.wait({running})
    details = activity.cancellation_details()
    if cancelled and details is not None and details.paused:
        # An operator's `activity pause` takes effect only if this attempt fails: a normal return would complete the
        # activity, and its workflow would start the next one.
        raise asyncio.CancelledError
    result = running.result()
    logger.info("drain of %s %s: %s", drain.partition, result.end.value, result.progress)
    return result
