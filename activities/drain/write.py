"""The third stage of the drain: writes each closed batch, and puts into the pen what cannot be decided now."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from write_batcher.activities.drain.age import AgeLimit
from write_batcher.activities.drain.answers import Answer, Failed
from write_batcher.activities.drain.confirm import Confirmation
from write_batcher.activities.drain.hold import Pen
from write_batcher.activities.drain.items import ClosedBatch, DecodedEntry, HeldEntry, Item, RetryBatch
from write_batcher.activities.drain.lane import Lane
from write_batcher.activities.drain.pacer import Pacer
from write_batcher.activities.drain.target import Stopped, Target
from write_batcher.activities.drain.write_again import AgainWriter
from write_batcher.models import Held, WriteReceipt

logger = logging.getLogger(__name__)


class Writer:
    """The only one who writes for its partition, one transaction after the other."""

    def __init__(
        self,
        target: Target,
        again: AgainWriter,
        pen: Pen,
        lane: Lane,
        age: AgeLimit,
        pacer: Pacer,
        confirm: Callable[[list[Confirmation]], Awaitable[None]],
    ) -> None:
        self._target = target
        self._again = again
        self._pen = pen
        self._lane = lane
        self._age = age
        self._pacer = pacer
        self._confirm = confirm

    async def run(self, closed: "asyncio.Queue[ClosedBatch | RetryBatch | None]") -> None:
        """Write batches until None arrives. When one is left pending because the drain is stopped, so are those behind
        it: they may have entries with the same keys.
        """
        stopped = False
        while batch := await self._next(closed):
            started = asyncio.get_running_loop().time()
            try:
                if not stopped:
                    await self._write(batch)
            except Stopped:
                logger.info("what is not written is left pending, for the next drain")
                stopped = True
            if isinstance(batch, RetryBatch):
                batch.seconds = asyncio.get_running_loop().time() - started
                batch.done.set_result(None)

    async def _next(self, closed: "asyncio.Queue[ClosedBatch | RetryBatch | None]") -> ClosedBatch | RetryBatch | None:
        with self._pacer.writer_waits():
            return await closed.get()

    async def _write(self, batch: ClosedBatch | RetryBatch) -> None:
        if isinstance(batch, RetryBatch):
            await self._again.write(batch)
            return
        while batch.items:
            await self._confirm(await self._write_part(batch))

    async def _write_part(self, batch: ClosedBatch) -> list[Confirmation]:
        """Write as many entries of the batch as may be written at once.

        What has to be held goes into the pen only after the write: entries before it may have to be held as well.
        """
        part, to_write = self._next_part(batch, await self._target.turn(len(batch.items)))
        answers = await self._target.write(to_write, batch)
        if answers is None:
            batch.items.extendleft(reversed(part))
            return []
        confirmations = []
        held_keys: set[bytes] = set()
        reasons: list[str] = []
        for item in part:
            answer = answers.get(item) if isinstance(item, DecodedEntry) else None
            if isinstance(item, DecodedEntry) and isinstance(answer, WriteReceipt):
                confirmations.append(Confirmation.of(item, answer))
            else:
                is_first = item.entry.order_key not in held_keys
                self._pen.add(self._held(item, answer, is_first=is_first))
                held_keys.add(item.entry.order_key)
                if is_first and isinstance(answer, Held):
                    reasons.append(answer.reason)
            self._lane.leave(item.entry)
        if reasons:
            logger.warning(
                "requests are held (%d, and what follows with their keys), the first because: %s",
                len(reasons),
                reasons[0],
            )
        return confirmations

    def _next_part(self, batch: ClosedBatch, limit: int) -> tuple[list[Item], list[DecodedEntry]]:
        """Take the next entries out of the batch: all in their order, and those of them that are to be written, at most
        `limit`.
        """
        part: list[Item] = []
        to_write: list[DecodedEntry] = []
        held_keys: set[bytes] = set()
        oldest_ms = self._age.oldest_ms()
        while batch.items and len(to_write) < limit:
            item = batch.items.popleft()
            part.append(item)
            key = item.entry.order_key
            may_be_written = item.entry.first_ms >= oldest_ms and item.entry.entry_id not in self._pen.refusals
            if may_be_written and isinstance(item, DecodedEntry) and not self._must_wait(key, held_keys):
                to_write.append(item)
            else:
                held_keys.add(key)
        return part, to_write

    def _must_wait(self, key: bytes, held_keys: set[bytes]) -> bool:
        return key in held_keys or self._pen.blocks(key)

    def _refusal(self, item: Item) -> str | None:
        """Why an entry must not be written, looked at before each try: both may have come about since it was read."""
        return self._pen.refusals.get(item.entry.entry_id) or self._age.refusal(item.entry)

    def _held(self, item: Item, answer: Answer | None, *, is_first: bool) -> HeldEntry:
        """How an entry that is not decided goes into the pen. Without an answer, or held by the sink behind another one
        with its key, it only waits.
        """
        held = item if isinstance(item, HeldEntry) else HeldEntry(entry=item.entry)
        held.refused = held.refused or self._refusal(item)
        match answer:
            case Held() if is_first:
                held.reason, held.failures = answer.reason, 1
            case Failed():
                held.reason, held.alone = answer.reason, True
        return held
