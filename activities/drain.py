"""The loop of one partition: take, write, confirm, acknowledge. Three stages that overlap, with bounded hand-over."""

import asyncio
import itertools
import logging
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from redis.asyncio import Redis
from temporalio import activity
from temporalio.client import Client

from write_batcher.activities.batching import BatchLimits
from write_batcher.activities.confirm import Delivery, SignalConfirmer
from write_batcher.activities.sinks.protocol import Sink
from write_batcher.activities.take import LONGEST_BLOCK, ClosedBatch, Taker
from write_batcher.activities.watch import Watch
from write_batcher.errors import InvalidEntry, QueueUnavailable, SinkContractBroken, SinkUnavailable
from write_batcher.models import (
    Batch,
    DrainEnd,
    DrainProgress,
    DrainResult,
    Outcome,
    PartitionRef,
    ReplyAddress,
    WriteReceipt,
)
from write_batcher.queue.codec import Codec, decode_reply
from write_batcher.queue.connections import connect
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import StreamEntry, WriteQueue

DRAIN_FOR = timedelta(hours=1)
STOP_WITHIN = timedelta(seconds=25)  # below the worker's graceful shutdown timeout
WRITE_LIMIT = timedelta(seconds=60)  # of one attempt; databases give up earlier by themselves
WRITE_BACKOFF_S = (0.2, 15.0)
CONFIRM_LIMIT = timedelta(seconds=60)  # of one attempt for all callers of a batch
CONFIRM_BACKOFF_S = (0.5, 10.0)
CONFIRM_RETRY_FOR = timedelta(seconds=60)  # then the entries are left pending and taken again
BATCHES_CONFIRMING = 4
RETIRE_AFTER = timedelta(seconds=60)  # longer than an append that was routed by the old number can take
PARTITIONS_EVERY = timedelta(seconds=5)
MAX_ERROR_CHARS = 500  # a confirmation must stay tiny

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The receipt of one taken entry on its way to the caller; then the entry is acknowledged, or dead-lettered when
    it was refused.
    """

    entry: StreamEntry
    reply: ReplyAddress | None
    receipt: WriteReceipt


class DrainActivities:
    """Batcher side. `partitions` is the configured number, announced when Redis has lost it."""

    def __init__(self, *, redis_url: str, redis: Redis, sink: Sink, limits: BatchLimits, partitions: int) -> None:
        self._redis_url = redis_url
        self._redis = redis
        self._sink = sink
        self._limits = limits
        self._partitions = partitions

    @activity.defn
    async def drain(self, partition: PartitionRef) -> DrainResult:
        """Drain until the hour is over, the worker stops or the activity is cancelled; then finish what is in hand and
        return normally, so that the next drain can start at once.
        """
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
            return await _run_until_stopped(drain)

    @activity.defn
    async def flush(self, partition: PartitionRef) -> None:
        """Have the open batch of the partition closed."""
        await WriteQueue(self._redis, partition.queue, partition.partition).append_flush()


async def _run_until_stopped(drain: "Drain") -> DrainResult:
    logger.info("drain of %s starts", drain.partition)
    running = asyncio.create_task(drain.run(), name=f"drain {drain.partition}")
    stopping = asyncio.create_task(activity.wait_for_worker_shutdown())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        drain.stop()
        result = await asyncio.shield(running)
    except asyncio.CancelledError:
        drain.stop()
        await asyncio.wait({running}, timeout=STOP_WITHIN.total_seconds())
        details = activity.cancellation_details()
        if not running.done() or (details is not None and details.paused):
            # An operator's `activity pause` holds only if this attempt fails: a normal return would end the activity,
            # and its workflow would start the next one.
            running.cancel()
            await asyncio.wait({running})
            raise
        result = running.result()
    finally:
        stopping.cancel()
    logger.info("drain of %s %s: %s", drain.partition, result.end.value, result.progress)
    return result


class Drain:
    """One run of the loop over one partition."""

    def __init__(
        self,
        partition: PartitionRef,
        *,
        queue: WriteQueue,
        partitions: Partitions,
        configured_partitions: int,
        sink: Sink,
        limits: BatchLimits,
        client: Client,
    ) -> None:
        self.partition = partition
        self._queue = queue
        self._partitions = partitions
        self._configured_partitions = configured_partitions
        self._sink = sink
        self._confirmer = SignalConfirmer(client)
        self._watch = Watch()
        self._taker = Taker(queue, Codec(client.data_converter), limits, self._watch, self._refuse)
        self._closed: asyncio.Queue[ClosedBatch | None] = asyncio.Queue(maxsize=1)
        self._answers: asyncio.Queue[list[Answer] | None] = asyncio.Queue(maxsize=1)
        self._progress = DrainProgress()
        self._holding: str | None = None
        self._stopping = asyncio.Event()
        self._end = DrainEnd.STOPPED

    def stop(self) -> None:
        """Take nothing more, finish what is in hand, and let `run` return."""
        self._stopping.set()
        self._taker.stop()

    async def run(self) -> DrainResult:
        """Run the stages. One that fails ends them all, and what they had in hand stays pending."""
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self._watch.beat(self._details), name="heartbeat")
                partitions = group.create_task(self._follow_partitions(), name="partitions")
                expiry = group.create_task(self._expire(), name="expiry")
                group.create_task(self._take(), name="take")
                group.create_task(self._write(), name="write")
                await group.create_task(self._confirm(), name="confirm")
                for task in (beat, partitions, expiry):
                    task.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return DrainResult(end=self._end, progress=self._details())

    async def _take(self) -> None:
        while batch := await self._taker.next_batch():
            await self._closed.put(batch)
        await self._closed.put(None)

    async def _write(self) -> None:
        while closed := await self._closed.get():
            batch = Batch(
                batch_id=f"{self.partition}/{int(time.time() * 1000):x}-{secrets.token_hex(2)}",
                flush_reason=closed.reason,
                requests=tuple(taken.request for taken in closed.items),
            )
            receipts = await self._written(batch)
            if receipts is None:
                self._taker.release((taken.entry for taken in closed.items), redeliver=False)
                continue
            await self._answers.put(
                [
                    Answer(entry=taken.entry, reply=taken.request.reply, receipt=receipt)
                    for taken, receipt in zip(closed.items, receipts, strict=True)
                ]
            )
        await self._answers.put(None)

    async def _written(self, batch: Batch) -> list[WriteReceipt] | None:
        """Receipts of a committed batch; None when it could not be written before the drain was stopped."""
        for failures in itertools.count(1):
            started = time.monotonic()
            try:
                with self._watch.step("writing a batch", WRITE_LIMIT):
                    receipts = await _to_its_end(self._sink.write(batch))
            except SinkUnavailable as error:
                self._holding = str(error)
                logger.warning("batch %s is held, tried %d times: %s", batch.batch_id, failures, error)
                if self._stopping.is_set():
                    break
                await self._back_off(WRITE_BACKOFF_S, failures)
            else:
                self._holding = None
                self._check_contract(batch, receipts)
                self._report(batch, receipts, write_ms=round((time.monotonic() - started) * 1000))
                return [
                    replace(
                        receipt, batch_size=len(receipts), flush_reason=batch.flush_reason, error=_short(receipt.error)
                    )
                    for receipt in receipts
                ]
        return None

    def _check_contract(self, batch: Batch, receipts: list[WriteReceipt]) -> None:
        if [receipt.request_id for receipt in receipts] != [request.request_id for request in batch.requests]:
            raise SinkContractBroken(
                f"{type(self._sink).__name__} must return one receipt per request, in order: batch {batch.batch_id}"
            )

    def _report(self, batch: Batch, receipts: list[WriteReceipt], *, write_ms: int) -> None:
        outcomes = {outcome.value: sum(receipt.outcome is outcome for receipt in receipts) for outcome in Outcome}
        self._count(batches=1, **outcomes)
        size = len(receipts)
        logger.info(
            "batch %s: %d requests (%s) in %d ms, %s",
            batch.batch_id,
            size,
            batch.flush_reason.value,
            write_ms,
            ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items() if number),
            extra={
                "batch": {
                    "batch_id": batch.batch_id,
                    "size": size,
                    "flush_reason": batch.flush_reason.value,
                    "write_ms": write_ms,
                    **outcomes,
                }
            },
        )

    async def _refuse(self, entry: StreamEntry, reason: str) -> None:
        """An entry that nobody can decode: its caller is told so, if its reply address can be read."""
        logger.error("entry %s of %s goes to the dead letters: %s", entry.entry_id, self._queue.stream_key, reason)
        try:
            reply = decode_reply(entry.fields)
        except InvalidEntry:
            reply = None
        receipt = WriteReceipt(
            request_id=entry.request_id.decode(errors="replace"), outcome=Outcome.REJECTED, error=_short(reason)
        )
        await self._answers.put([Answer(entry=entry, reply=reply, receipt=receipt)])

    async def _confirm(self) -> None:
        slots = asyncio.Semaphore(BATCHES_CONFIRMING)
        async with asyncio.TaskGroup() as group:
            while answers := await self._answers.get():
                await slots.acquire()
                task = group.create_task(self._confirm_batch(answers, group))
                task.add_done_callback(lambda _: slots.release())

    async def _confirm_batch(self, answers: list[Answer], group: asyncio.TaskGroup) -> None:
        callers: dict[str, list[Answer]] = defaultdict(list)
        finished = []
        for answer in answers:
            if answer.reply is None:
                finished.append(answer)
            else:
                callers[answer.reply.workflow_id].append(answer)
        with self._watch.step("confirming a batch", CONFIRM_LIMIT):
            deliveries = await asyncio.gather(*(self._deliver(caller) for caller in callers.values()))
        for caller, delivered in zip(callers.values(), deliveries, strict=True):
            if delivered:
                finished += caller
            else:  # one slow caller holds up nobody else
                group.create_task(self._confirm_later(caller))
        await self._finish(finished)

    async def _confirm_later(self, answers: list[Answer]) -> None:
        give_up = time.monotonic() + CONFIRM_RETRY_FOR.total_seconds()
        failures = 0
        while time.monotonic() < give_up and not self._stopping.is_set():
            failures += 1
            await self._back_off(CONFIRM_BACKOFF_S, failures)
            with self._watch.step("confirming to one caller", CONFIRM_LIMIT):
                if await self._deliver(answers):
                    return await self._finish(answers)
        logger.warning("caller %s could not be confirmed yet", answers[0].reply)
        self._taker.release((answer.entry for answer in answers), redeliver=True)
        return None

    async def _deliver(self, answers: list[Answer]) -> bool:
        """Send one caller its receipts. True when the answer is final."""
        reply = answers[0].reply
        assert reply is not None  # noqa: S101 - grouped by reply
        delivery = await self._confirmer.deliver(reply.workflow_id, [answer.receipt for answer in answers])
        if delivery is Delivery.UNKNOWN:
            return False
        name = "confirmed" if delivery is Delivery.DELIVERED else "without_caller"
        self._count(**{name: len(answers)})
        return True

    async def _finish(self, answers: list[Answer]) -> None:
        """Remove entries from the stream; the last step of each."""
        refused = [answer for answer in answers if answer.receipt.outcome is Outcome.REJECTED]
        done = [answer.entry for answer in answers if answer.receipt.outcome is not Outcome.REJECTED]
        redeliver = False
        try:
            if done:
                await self._queue.acknowledge(done)
            for answer in refused:
                await self._queue.dead_letter(answer.entry, answer.receipt.error or "")
                self._count(dead=1)
        except QueueUnavailable as error:
            logger.warning("entries of %s could not be acknowledged: %s", self._queue.stream_key, error)
            redeliver = True
        self._taker.release((answer.entry for answer in answers), redeliver=redeliver)

    async def _follow_partitions(self) -> None:
        """Restore the announced number of partitions when Redis lost it; end when the queue shrank past this one."""
        while not self._stopping.is_set():
            try:
                count = await self._partitions.announced_or(self._configured_partitions)
                idle_for = asyncio.get_running_loop().time() - self._taker.idle_since
                if self.partition.partition >= count and idle_for > RETIRE_AFTER.total_seconds():
                    self._end = DrainEnd.RETIRED
                    self.stop()
            except QueueUnavailable as error:
                logger.debug("the number of partitions is unknown: %s", error)
            await asyncio.sleep(PARTITIONS_EVERY.total_seconds())

    async def _expire(self) -> None:
        await asyncio.sleep(DRAIN_FOR.total_seconds())
        self._end = DrainEnd.EXPIRED
        self.stop()

    async def _back_off(self, bounds_s: tuple[float, float], failures: int) -> None:
        """Wait exponentially longer, with jitter; a stop ends the wait."""
        first, longest = bounds_s
        delay = min(longest, first * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        try:
            async with asyncio.timeout(delay):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _details(self) -> DrainProgress:
        return replace(self._progress, in_hand=self._taker.in_hand, holding=self._holding)

    def _count(self, **more: int) -> None:
        totals = {name: getattr(self._progress, name) + number for name, number in more.items()}
        self._progress = replace(self._progress, **totals)


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await `work` even when cancelled meanwhile: a commit that has begun cannot be taken back."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _short(error: str | None) -> str | None:
    return None if error is None else error[:MAX_ERROR_CHARS]
