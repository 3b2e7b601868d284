"""Trying held entries again: together, or alone where one may be what makes the writing fail, or for the last time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from write_batcher.activities.drain.age import AgeLimit
from write_batcher.activities.drain.answers import Failed
from write_batcher.activities.drain.confirm import Confirmation
from write_batcher.activities.drain.hold import Pen
from write_batcher.activities.drain.items import HeldEntry, Retry, RetryBatch
from write_batcher.activities.drain.receipt_text import printable
from write_batcher.activities.drain.target import Stopped, Target
from write_batcher.errors import QueueUnavailable
from write_batcher.models import Held, WriteReceipt
from write_batcher.queue.stream import WriteQueue

MAX_TRIES_ALONE = 7  # of writing an entry that end the drain or make the sink fail; then it is given up
MAX_TRIES_TO_SETTLE = 3  # then it becomes a dead letter whatever the ledger says

logger = logging.getLogger(__name__)


class AgainWriter:
    """Writes held entries for the writer."""

    def __init__(
        self,
        queue: WriteQueue,
        target: Target,
        pen: Pen,
        age: AgeLimit,
        confirm: Callable[[list[Confirmation]], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._target = target
        self._pen = pen
        self._age = age
        self._confirm = confirm

    async def write(self, batch: RetryBatch) -> None:
        """Try all entries of the batch. Raises `Stopped` when the drain is stopped while the sink is away."""
        undecided: set[bytes] = set()
        while batch.items:
            one = batch.items[0]
            if one.held.refused is None and not one.held.alone:
                await self._confirm(await self._write_together(batch, undecided))
                continue
            confirmations: list[Confirmation] | None
            try:
                if one.held.refused is not None:
                    confirmations = await self._refuse(one, one.held.refused)
                else:
                    confirmations = await self._write_alone(batch, one)
            except QueueUnavailable as error:  # it cannot be marked
                self._pen.failed(one.held, one.held.reason or printable(str(error)))
                confirmations = []
            if confirmations is not None:
                batch.items.popleft()
                await self._confirm(confirmations)

    async def _write_together(self, batch: RetryBatch, undecided: set[bytes]) -> list[Confirmation]:
        """Write as many entries as may be written at once, without what follows an entry that stays `undecided`."""
        part: list[Retry] = []
        limit = await self._target.turn(len(batch.items))
        while batch.items and len(part) < limit:
            one = batch.items.popleft()
            if refused := self._age.refusal(one.held.entry):
                self._pen.refuse(one.held, refused)
                undecided.add(one.held.entry.order_key)
            elif one.held.entry.order_key not in undecided:
                part.append(one)
        started = asyncio.get_running_loop().time()
        answers = await self._target.write([one.decoded for one in part], batch)
        if answers is None:
            batch.items.extendleft(reversed(part))
            return []
        seconds = (asyncio.get_running_loop().time() - started) / max(len(part), 1)
        confirmations = []
        for one in part:
            match answers[one.decoded]:
                case WriteReceipt() as receipt:
                    self._pen.remove(one.held)
                    confirmations.append(Confirmation.of(one.decoded, receipt))
                    continue
                case Held(reason=reason) if one.held.entry.order_key not in undecided:
                    self._pen.failed(one.held, reason, seconds=seconds)
                case Failed(reason=reason):
                    self._pen.distrust(one.held, reason)
            undecided.add(one.held.entry.order_key)
        return confirmations

    async def _write_alone(self, batch: RetryBatch, one: Retry) -> list[Confirmation] | None:
        """Write one entry. It is marked before and unmarked after: the marks count the tries that ended the process or
        made the sink fail. None when it has to be tried again at once.
        """
        tries = await self._queue.deaths_alone(one.held.entry)
        if tries >= MAX_TRIES_ALONE:
            return await self._refuse(one, _poison_reason(one.held, tries))
        if refused := self._age.refusal(one.held.entry):
            return await self._refuse(one, refused)
        await self._target.turn(1)
        await self._queue.begin_alone(one.held.entry)
        started = asyncio.get_running_loop().time()
        try:
            answers = await self._target.write([one.decoded], batch)
        except Stopped:
            await self._unmark(one)
            raise
        answer = None if answers is None else answers[one.decoded]
        if isinstance(answer, Failed):
            self._pen.failed(one.held, answer.reason)
            return []
        await self._unmark(one)
        match answer:
            case WriteReceipt():
                self._pen.remove(one.held)
                return [Confirmation.of(one.decoded, answer)]
            case Held():
                one.held.alone = False  # this process has survived it
                seconds = asyncio.get_running_loop().time() - started
                self._pen.failed(one.held, answer.reason, seconds=seconds)
                return []
        return None

    async def _refuse(self, one: Retry, reason: str) -> list[Confirmation]:
        """Reject an entry, unless the ledger knows that it is decided already. If even that fails, or ends the process
        again and again, it is a dead letter all the same.
        """
        entry = one.held.entry
        receipt = None
        if await self._queue.deaths_alone(entry) < MAX_TRIES_ALONE + MAX_TRIES_TO_SETTLE:
            await self._target.turn(1)
            await self._queue.begin_alone(entry)
            try:
                receipt = await self._target.settle(one.decoded, reason)
            except Stopped:
                await self._unmark(one)
                raise
        outcome = receipt.outcome.value if receipt else "unknown"
        logger.warning("entry %s is not tried any more, outcome %s: %s", entry.entry_id, outcome, reason)
        self._pen.remove(one.held)
        if receipt is None:
            return [Confirmation.of_dead_letter(entry, reason)]
        return [Confirmation.of(one.decoded, receipt)]

    async def _unmark(self, one: Retry) -> None:
        try:
            await self._queue.end_alone(one.held.entry)
        except QueueUnavailable as error:  # what has been committed is confirmed all the same
            logger.warning("entry %s stays marked as a suspect: %s", one.held.entry.entry_id, error)


def _poison_reason(held: HeldEntry, tries: int) -> str:
    last = f", last with {held.reason}" if held.reason else ""
    return printable(f"Writing this record alone has failed or ended its drain {tries} times{last}")
