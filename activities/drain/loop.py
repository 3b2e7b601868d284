"""The loop of one partition: take, write, confirm. Three stages that overlap, with a bounded queue between each two."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from temporalio.client import Client

from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.confirm import Confirmation, Confirmer
from write_batcher.activities.drain.progress import Progress
from write_batcher.activities.drain.receipt_sender import ReceiptSender
from write_batcher.activities.drain.take import ClosedBatch, Taker
from write_batcher.activities.drain.watch import Watch
from write_batcher.activities.drain.write import Writer, shortened
from write_batcher.errors import InvalidEntry, QueueUnavailable, SinkUnavailable, StageStalled
from write_batcher.models import (
    MAX_REQUEST_ID_BYTES,
    DrainEnd,
    DrainProgress,
    DrainResult,
    Outcome,
    PartitionRef,
    WriteReceipt,
)
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec, decode_reply
from write_batcher.sinks.protocol import PrunableSink, Sink

DRAIN_FOR = timedelta(hours=1)
RETIRE_AFTER = timedelta(seconds=60)  # longer than an append can take that was routed by the old number
PRUNE_MARGIN = timedelta(hours=1)  # the clocks of Redis and of the database may be corrected in the meantime
PARTITIONS_EVERY = timedelta(seconds=5)

logger = logging.getLogger(__name__)


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
        self._max_age = limits.max_age
        self._watch = Watch()
        self._progress = Progress()
        self._stopping = asyncio.Event()
        self._end = DrainEnd.STOPPED
        self._taker = Taker(queue, Codec(client.data_converter), limits, self._watch, self._stopping, self._reject)
        self._writer = Writer(partition, queue, sink, self._watch, self._progress, self._stopping)
        sender = ReceiptSender(client, self._watch)
        self._confirmer = Confirmer(queue, sender, self._taker.release, self._progress, self._stopping)
        self._closed: asyncio.Queue[ClosedBatch | None] = asyncio.Queue(maxsize=1)
        self._written: asyncio.Queue[list[Confirmation] | None] = asyncio.Queue(maxsize=1)

    def stop(self) -> None:
        """Take nothing more, finish what is in flight, and let `run` return."""
        self._stopping.set()

    async def run(self) -> DrainResult:
        """Run the stages. When one fails, all of them end, and what they had in flight stays pending."""
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(self._watch.beat(self._details), name="heartbeat"),
                    group.create_task(self._follow_partitions(), name="partitions"),
                    group.create_task(self._expire(), name="expiry"),
                    group.create_task(self._prune(), name="prune"),
                ]
                stages = [
                    group.create_task(self._take(), name="take"),
                    group.create_task(self._write(), name="write"),
                    group.create_task(self._confirmer.run(self._written), name="confirm"),
                ]
                await _until_done(stages[-1], [*background, *stages])
                for task in background:
                    task.cancel()
        except ExceptionGroup as failures:
            first = _first_error(failures)
            raise first from first.__cause__
        await self._save_tallies()
        return DrainResult(end=self._end, progress=self._details())

    async def _take(self) -> None:
        while batch := await self._taker.next_batch():
            await self._closed.put(batch)
        await self._closed.put(None)

    async def _write(self) -> None:
        while closed := await self._closed.get():
            if confirmations := await self._writer.write(closed):
                await self._written.put(confirmations)
            else:
                self._taker.release((item.entry for item in closed.items), redeliver=True)
        await self._written.put(None)

    async def _reject(self, entry: StreamEntry, reason: str) -> None:
        """Reject an entry that cannot be decoded or is too old. Its caller is told if its reply address is readable."""
        error = shortened(reason)  # the reason may quote the entry
        logger.error("entry %s of %s goes to the dead letters: %s", entry.entry_id, self._queue.stream_key, error)
        try:
            reply = decode_reply(entry.fields)
        except InvalidEntry:
            reply = None
        receipt = WriteReceipt(
            # No caller has a longer id, and no signal could carry it.
            request_id=entry.request_id[:MAX_REQUEST_ID_BYTES].decode(errors="replace"),
            outcome=Outcome.REJECTED,
            queue=self.partition.queue,
            attempt=reply.attempt if reply else None,
            error=error,
        )
        await self._written.put([Confirmation(entry=entry, reply=reply, receipt=receipt, undecodable=True)])

    async def _follow_partitions(self) -> None:
        """Announce the number of partitions again when Redis has lost it. Retire when this partition is beyond that
        number and empty.
        """
        surplus_since: float | None = None
        while not self._stopping.is_set():
            try:
                count = await self._partitions.announced_or(self._configured_partitions)
                now = asyncio.get_running_loop().time()
                surplus_since = (surplus_since or now) if self.partition.partition >= count else None
                if (
                    surplus_since is not None
                    and now - max(surplus_since, self._taker.idle_since) > RETIRE_AFTER.total_seconds()
                    # A taker that waits for a held batch or for Redis is idle too, so ask whether anything is left.
                    and (await self._queue.statistics()).backlog == 0
                ):
                    self._end = DrainEnd.RETIRED
                    self.stop()
            except QueueUnavailable as error:
                logger.debug("the number of partitions is unknown: %s", error)
            await self._save_tallies()
            await asyncio.sleep(PARTITIONS_EVERY.total_seconds())

    async def _save_tallies(self) -> None:
        tallies = self._progress.take_tallies()
        try:
            if tallies:
                await self._queue.count(tallies)
        except QueueUnavailable:
            self._progress.tally(tallies)

    async def _prune(self) -> None:
        """Prune the ledger once in each run, so about every hour."""
        if not isinstance(self._sink, PrunableSink):
            return
        try:
            now = datetime.fromtimestamp(await self._queue.now_ms() / 1000, UTC)
            pruned = await self._sink.prune(self._max_age + PRUNE_MARGIN, now=now)
            logger.info("drain of %s pruned %d requests from the ledger", self.partition, pruned)
        except (QueueUnavailable, SinkUnavailable) as error:
            logger.warning("drain of %s could not prune the ledger: %s", self.partition, error)

    async def _expire(self) -> None:
        await asyncio.sleep(DRAIN_FOR.total_seconds())
        self._end = DrainEnd.EXPIRED
        self.stop()

    def _details(self) -> DrainProgress:
        return self._progress.snapshot(in_flight=self._taker.in_flight)


async def _until_done(last: asyncio.Task[None], tasks: list[asyncio.Task[None]]) -> None:
    """Wait for `last`. Raises `StageStalled` when one of `tasks` is cancelled: the task group takes that for a normal
    end, and the drain would go on without heartbeats, beside its successor, or hang without a stage.
    """
    pending = set(tasks)
    while last in pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.cancelled():
                raise StageStalled(f"The drain's task {task.get_name()!r} was cancelled from outside.")


def _first_error(failures: ExceptionGroup[Exception]) -> Exception:
    """The error of the stage that failed first. A stage may have a task group of its own, so groups are nested."""
    first = failures.exceptions[0]
    return _first_error(first) if isinstance(first, ExceptionGroup) else first
