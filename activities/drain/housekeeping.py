"""What a drain does beside its stages: follows the contract, prunes the ledger, trims the dead letters."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.contract_check import check_contract
from write_batcher.activities.drain.progress import Progress
from write_batcher.errors import QueueUnavailable, SinkUnavailable
from write_batcher.models import DrainEnd, PartitionRef
from write_batcher.queue.contract import Contract
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.protocol import PrunableSink, Sink

RETIRE_AFTER = timedelta(seconds=60)  # longer than an append can take that was routed by the old number
READER_LEASE = timedelta(seconds=15)  # three times CONTRACT_EVERY
CONTRACT_EVERY = timedelta(seconds=5)

logger = logging.getLogger(__name__)


class Housekeeping:
    """The background work of one drain."""

    def __init__(
        self,
        partition: PartitionRef,
        queue: WriteQueue,
        sink: Sink,
        limits: BatchLimits,
        *,
        contract: Callable[[], Contract],
        started_for: str,
        progress: Progress,
    ) -> None:
        self._partition = partition
        self._queue = queue
        self._sink = sink
        self._limits = limits
        self._contract = contract
        self._started_for = started_for
        self._progress = progress
        self._tidy = asyncio.Event()

    def check_contract(self) -> None:
        """Raises `WrongSink` or `TablesUnknown` when this worker must not drain its queue."""
        check_contract(self._contract(), self._sink, started_for=self._started_for)

    async def until_idle(self, idle_since: Callable[[], float], *, parks_at_once: bool) -> DrainEnd:
        """Return when there has been nothing to do for a while: `RETIRED` when the contract has fewer partitions, else
        `PARKED`. With `parks_at_once`, that is as soon as there is nothing to do and everything is tidied up.

        `idle_since` returns when an entry was read last, by the loop's clock. Raises what `check_contract` raises.
        """
        park_after_s = self._limits.park_after.total_seconds()
        if parks_at_once:
            park_after_s = 0.0
            await self._tidy.wait()
        surplus_since: float | None = None
        while True:
            self.check_contract()
            await self._note_reader()
            now = asyncio.get_running_loop().time()
            if self._partition.partition < self._contract().partitions:
                surplus_since = None
                if now - idle_since() >= park_after_s and await self._is_empty():
                    return DrainEnd.PARKED
            elif surplus_since is None:
                surplus_since = now
            elif now - max(surplus_since, idle_since()) > RETIRE_AFTER.total_seconds() and await self._is_empty():
                return DrainEnd.RETIRED
            await self.save_tallies()
            await asyncio.sleep(CONTRACT_EVERY.total_seconds())

    async def end_reading(self) -> None:
        """Note that this drain reads nothing any more. Until then, or for a few seconds, no worker would wake another
        one.
        """
        with suppress(QueueUnavailable):
            await self._queue.forget_reader()

    async def _note_reader(self) -> None:
        with suppress(QueueUnavailable):  # then a worker may wake the drain in vain
            await self._queue.note_reader(READER_LEASE)

    async def save_tallies(self) -> None:
        """Add what was tallied to the counters of the partition; what Redis does not take now is tallied again."""
        tallies = self._progress.take_tallies()
        try:
            if tallies:
                await self._queue.count(tallies)
        except QueueUnavailable:
            self._progress.tally(tallies)

    async def prune(self) -> None:
        """Prune the ledger and trim the dead letters; once in each run, so about every hour."""
        try:
            trimmed = await self._queue.trim_dead_letters(retention=self._limits.dead_letter_retention)
            if trimmed:
                logger.warning("drain of %s deleted %d dead letters, too old to be kept", self._partition, trimmed)
            if isinstance(self._sink, PrunableSink):
                # By the clock of Redis, which dates the entries, and by the sink's own.
                now = datetime.fromtimestamp(await self._queue.now_ms() / 1000, UTC)
                pruned = await self._sink.prune(now=now)
                logger.info("drain of %s pruned %d requests from the ledger", self._partition, pruned)
        except (QueueUnavailable, SinkUnavailable) as error:
            logger.warning("drain of %s could not tidy up: %s", self._partition, error)
        except Exception:  # a defect of the sink, which has to write nevertheless
            logger.exception("drain of %s could not prune the ledger", self._partition)
        finally:
            self._tidy.set()

    async def _is_empty(self) -> bool:
        # A drain that waits for its sink, for Redis or for held entries reads nothing either.
        try:
            return (await self._queue.statistics()).backlog == 0
        except QueueUnavailable:
            return False
