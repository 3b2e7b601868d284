"""The drain of one partition: stages that overlap, with a bounded hand-over between each two."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from temporalio.client import Client

from write_batcher.activities.drain.age import AgeLimit
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.bell import Bell
from write_batcher.activities.drain.clock import ServerClock
from write_batcher.activities.drain.confirm import Confirmation, Confirmer
from write_batcher.activities.drain.decode import Decoder
from write_batcher.activities.drain.hold import Pen
from write_batcher.activities.drain.housekeeping import Housekeeping
from write_batcher.activities.drain.items import ClosedBatch, RetryBatch
from write_batcher.activities.drain.lane import Lane
from write_batcher.activities.drain.operators import Operators
from write_batcher.activities.drain.outage import Outage
from write_batcher.activities.drain.pacer import Pacer
from write_batcher.activities.drain.progress import Progress
from write_batcher.activities.drain.read import Reader
from write_batcher.activities.drain.receipt_sender import ReceiptSender
from write_batcher.activities.drain.receipt_text import printable
from write_batcher.activities.drain.retry import Retrier
from write_batcher.activities.drain.take import Taker
from write_batcher.activities.drain.target import Target
from write_batcher.activities.drain.watch import Watch
from write_batcher.activities.drain.write import Writer
from write_batcher.activities.drain.write_again import AgainWriter
from write_batcher.errors import StageStalled
from write_batcher.models import DrainEnd, DrainProgress, DrainResult, PartitionRef, QueueRef
from write_batcher.queue.contract import Contract
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec
from write_batcher.sinks.protocol import Sink

DRAIN_FOR = timedelta(hours=1)

logger = logging.getLogger(__name__)


class Drain:
    """One run of the loop over one partition.

    reader -> taker -> writer -> confirmer; what cannot be decided now goes into the pen, from where the retrier hands
    it to the writer again.
    """

    def __init__(
        self,
        partition: PartitionRef,
        *,
        ref: QueueRef,
        queue: WriteQueue,
        sink: Sink,
        limits: BatchLimits,
        contract: Callable[[], Contract],
        client: Client,
        signer: Signer | None = None,
        started_for: str = "",
        parks_at_once: bool = False,
    ) -> None:
        """`started_for` is the id of the sink that the batcher was started for; empty: any. With `parks_at_once` it
        ends as soon as there is nothing to do.
        """
        self.partition = partition
        self._queue = queue
        self._parks_at_once = parks_at_once
        self._stopping = asyncio.Event()
        self._end = DrainEnd.STOPPED
        self._closed: asyncio.Queue[ClosedBatch | RetryBatch | None] = asyncio.Queue(maxsize=1)
        self._written: asyncio.Queue[list[Confirmation] | None] = asyncio.Queue(maxsize=1)

        # What the stages share.
        self._bell = bell = Bell()
        self._progress = progress = Progress()
        self._watch = watch = Watch()
        self._lane = lane = Lane(bell)
        self._pen = pen = Pen(asyncio.get_running_loop().time, bell.ring)
        clock = ServerClock(queue)
        age = AgeLimit(limits.max_age, clock)

        def live_limits() -> BatchLimits:
            return limits.with_set_live(contract())

        decoder = Decoder(Codec(client.data_converter), signer, limits, clock)

        # The stages.
        stopping = self._stopping
        self._operators = Operators(queue, pen, clock)
        self._taker = Taker(live_limits, clock, bell, stopping, self._may_be_written)
        self._pacer = Pacer(queue, contract, bell, lambda: self._taker.has_items)
        self._reader = Reader(
            queue,
            decoder,
            self._taker,
            pen=pen,
            lane=lane,
            age=age,
            clock=clock,
            watch=watch,
            bell=bell,
            stopping=stopping,
            reject=self._reject,
            look_for_orders=self._operators.look,
        )
        self._retrier = Retrier(
            queue,
            decoder,
            pen,
            lane,
            limits=live_limits,
            age=age,
            clock=clock,
            bell=bell,
            stopping=stopping,
            reject=self._reject,
            carried_out=self._operators.carried_out,
        )
        target = Target(partition, ref, sink, watch, progress, self._pacer, Outage(queue, stopping), stopping)
        again = AgainWriter(queue, target, pen, age, self._confirm)
        self._writer = Writer(target, again, pen, lane, age, self._pacer, self._confirm)
        self._confirmer = Confirmer(queue, ReceiptSender(client), lane, limits, progress, stopping)
        self._housekeeping = Housekeeping(
            partition, queue, sink, limits, contract=contract, started_for=started_for, progress=progress
        )

    def stop(self) -> None:
        """Take nothing more, finish what is in flight, and let `run` return."""
        self._stopping.set()
        self._bell.ring()

    async def run(self) -> DrainResult:
        """Run the stages. When one fails, all of them end, and what they had in flight stays pending."""
        self._housekeeping.check_contract()
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(self._watch.beat(self.details), name="heartbeat"),
                    group.create_task(self._rest(), name="contract"),
                    group.create_task(self._expire(), name="expiry"),
                    group.create_task(self._housekeeping.prune(), name="prune"),
                    group.create_task(self._operators.run(), name="operators"),
                    group.create_task(self._pacer.run(), name="pace"),
                ]
                retrying = group.create_task(self._retrier.run(self._closed), name="retry")
                stages = [
                    group.create_task(self._reader.run(), name="read"),
                    retrying,
                    group.create_task(self._take(retrying), name="take"),
                    group.create_task(self._write(), name="write"),
                    group.create_task(self._confirmer.run(self._written), name="confirm"),
                ]
                await _until_done(stages[-1], [*background, *stages])
                for task in background:
                    task.cancel()
        except ExceptionGroup as failures:
            first = _first_error(failures)
            raise first from first.__cause__
        await self._housekeeping.save_tallies()
        await self._housekeeping.end_reading()
        return DrainResult(end=self._end, progress=self.details())

    async def _take(self, retrying: "asyncio.Task[None]") -> None:
        while batch := await self._taker.next_batch():
            await self._closed.put(batch)
        await asyncio.wait({retrying})
        await self._closed.put(None)

    def _may_be_written(self) -> bool:
        """Whether a batch that is not full yet may be written at once."""
        return self._pacer.may_write_early and self._closed.empty()

    async def _write(self) -> None:
        await self._writer.run(self._closed)
        await self._written.put(None)

    async def _confirm(self, confirmations: list[Confirmation]) -> None:
        if confirmations:
            await self._written.put(confirmations)

    async def _reject(self, entry: StreamEntry, reason: str) -> None:
        """Make an entry a dead letter that nobody can decode, or that was not asked for by whom it names.

        Its caller is not told: whether an earlier batcher has written it, only the ledger knows. The caller settles.
        """
        error = printable(reason)  # the reason may quote the entry
        logger.error("entry %s of %s goes to the dead letters: %s", entry.entry_id, self._queue.stream_key, error)
        await self._confirm([Confirmation.of_dead_letter(entry, error)])

    async def _rest(self) -> None:
        self._end = await self._housekeeping.until_idle(
            lambda: self._reader.idle_since, parks_at_once=self._parks_at_once
        )
        self.stop()

    async def _expire(self) -> None:
        await asyncio.sleep(DRAIN_FOR.total_seconds())
        self._end = DrainEnd.EXPIRED
        self.stop()

    def details(self) -> DrainProgress:
        """What this run has done so far, and what it does now."""
        full = f"{len(self._pen)} entries are held, more are not taken" if self._pen.is_full else None
        return self._progress.snapshot(
            in_flight=len(self._lane), held=len(self._pen), full=full, throttled=self._pacer.throttled
        )


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
