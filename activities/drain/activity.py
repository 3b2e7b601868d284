"""The activities that run the loop: `drain` for one partition, and `flush` beside it."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from redis.asyncio import Redis
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.contract_check import check_contract
from write_batcher.activities.drain.decode import RESERVED_BYTES
from write_batcher.activities.drain.loop import Drain
from write_batcher.activities.drain.read import LONGEST_BLOCK
from write_batcher.activities.drain.target import GIVE_UP_WITHIN
from write_batcher.activities.queue_guard import check_queue
from write_batcher.errors import StageStalled, TablesUnknown, WrongSink
from write_batcher.models import (
    HEARTBEAT_TIMEOUT,
    DrainEnd,
    DrainInput,
    DrainProgress,
    DrainResult,
    PartitionRef,
    QueueRef,
)
from write_batcher.queue.contract import Contract
from write_batcher.queue.redis_client import connect
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.protocol import Sink

# Together with `GIVE_UP_WITHIN` and `ABANDON_AFTER` it must stay below the worker's grace period,
# `serving.SHUTDOWN_GRACE`.
STOP_WITHIN = timedelta(seconds=10)
ABANDON_AFTER = timedelta(seconds=2)  # for what ends at a cancellation

logger = logging.getLogger(__name__)


class DrainActivities:
    """The batcher's activities for one queue. `contract` returns the latest contract of the queue that is known; with
    `signer` only entries that it accepts are written. `heartbeat_timeout` is what the drains of this worker are to
    have, in whole milliseconds.
    """

    def __init__(
        self,
        *,
        queue: QueueRef,
        redis_url: str,
        redis: Redis,
        sink: Sink,
        limits: BatchLimits,
        contract: Callable[[], Contract],
        signer: Signer | None = None,
        heartbeat_timeout: timedelta = HEARTBEAT_TIMEOUT,
    ) -> None:
        self._queue = queue
        self._redis_url = redis_url
        self._redis = redis
        self._sink = sink
        self._limits = limits
        self._contract = contract
        self._signer = signer
        self._heartbeat_timeout_ms = heartbeat_timeout // timedelta(milliseconds=1)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Make the drains of this worker return, also those that it starts from now on. Call it before the worker shuts
        down: the SDK does not tell a worker's first activity about a shutdown that has already begun.
        """
        self._stopping.set()

    @activity.defn
    async def drain(self, drain_input: DrainInput) -> DrainResult:
        """Drain the partition for an hour, or until there has been nothing to do for a minute, the worker stops, or the
        activity is cancelled. Then finish what is in flight and return normally, so that the next drain can start at
        once.

        Returns at once when this worker has another heartbeat timeout than `drain_input`: the next drain gets that one.

        Fails with type `WrongSink` or `TablesUnknown`, and is retried, until a worker takes it that has the sink and
        the tables of the queue.
        """
        check_queue(drain_input.partition.queue, served=self._queue.name)
        try:
            # A worker that is stopping drains nothing any more: its setting is not for the next one.
            if drain_input.heartbeat_timeout_ms in (None, self._heartbeat_timeout_ms) or self._stopping.is_set():
                return await self._drain(drain_input)
            # Nor is that of a worker which must not drain this queue.
            check_contract(self._contract(), self._sink, started_for=drain_input.sink_id)
        except (WrongSink, TablesUnknown) as error:
            # Benign: each try of this worker would log a traceback.
            raise ApplicationError(
                str(error), type=type(error).__name__, category=ApplicationErrorCategory.BENIGN
            ) from None
        logger.info(
            "drain of %s starts again, with a heartbeat timeout of %d ms instead of %d ms",
            drain_input.partition,
            self._heartbeat_timeout_ms,
            drain_input.heartbeat_timeout_ms,
        )
        return DrainResult(
            end=DrainEnd.RECONFIGURED, progress=DrainProgress(), heartbeat_timeout_ms=self._heartbeat_timeout_ms
        )

    async def _drain(self, drain_input: DrainInput) -> DrainResult:
        partition = drain_input.partition
        async with connect(self._redis_url, longest_block=LONGEST_BLOCK) as reader:
            queue = WriteQueue(
                self._redis,
                self._queue,
                partition.partition,
                reader=reader,
                largest_entry=self._limits.max_request_bytes + RESERVED_BYTES,
            )
            drain = Drain(
                partition,
                started_for=drain_input.sink_id,
                parks_at_once=drain_input.parks_at_once,
                ref=self._queue,
                queue=queue,
                sink=self._sink,
                limits=self._limits,
                contract=self._contract,
                client=activity.client(),
                signer=self._signer,
            )
            return await _run_until_stopped(drain, self._stopping)

    @activity.defn
    async def flush(self, partition: PartitionRef) -> None:
        """Ask the drain of the partition to close its open batch."""
        check_queue(partition.queue, served=self._queue.name)
        await WriteQueue(self._redis, self._queue, partition.partition).append_flush()


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
        await asyncio.wait({running}, timeout=(GIVE_UP_WITHIN + ABANDON_AFTER).total_seconds())
    if not running.done():
        raise StageStalled(f"The drain of {drain.partition} does not end, and is abandoned.")
    details = activity.cancellation_details()
    if cancelled and details is not None and details.paused:
        # An operator's `activity pause` takes effect only if this attempt fails: a normal return would complete the
        # activity, and its workflow would start the next one.
        raise asyncio.CancelledError
    result = running.result()
    logger.info("drain of %s %s: %s", drain.partition, result.end.value, result.progress)
    return result
