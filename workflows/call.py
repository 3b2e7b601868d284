"""One call of `submit`: from the append to the receipt, or to what the ledger knows."""

import asyncio

from temporalio import workflow

from write_batcher.errors import WriteOutcomeUnknown
from write_batcher.models import MAX_REQUEST_AGE, Appended, ConfirmBy, Outcome, WriteReceipt
from write_batcher.workflows import failures
from write_batcher.workflows.alarms import TOGETHER_S
from write_batcher.workflows.awaited_write import Write
from write_batcher.workflows.enqueuing import Append, EnqueueLane
from write_batcher.workflows.settling import Settlement
from write_batcher.workflows.shared import Shared
from write_batcher.workflows.write_options import OnRejected, WriteOptions

# After a rejection, until it is asked whether the dead letter is still there: seconds, doubled every time.
FIRST_LOOK_S = 60.0
LONGEST_LOOK_S = 3600.0


class Call:
    """Obtains the receipt of one write."""

    def __init__(self, options: WriteOptions, shared: Shared, write: Write, began: float) -> None:
        self._options = options
        self._shared = shared
        self._write = write
        self._known: WriteReceipt | None = None
        """The receipt that the caller waits to have replaced."""
        self._began = began
        self._settlement: Settlement | None = None

    async def run(self) -> WriteReceipt:
        """Return the receipt, or raise as `submit` does."""
        self._shared.inbox.expect(self._write)
        try:
            receipt = await self._obtain_receipt()
            # Once it has been settled, no replay writes it any more.
            if receipt.outcome is Outcome.REJECTED and waits_for_replay(self._options) and self._settlement is None:
                receipt = await self._obtain_replay(receipt)
            if receipt.outcome is Outcome.WITHDRAWN and self._settlement is None:
                receipt = await self._confirm_withdrawal(receipt)
        except asyncio.CancelledError:
            if self._shared.is_evicted():
                raise
            raise failures.cancelled(self._write, await self._end_of_cancelled()) from None
        finally:
            self._shared.inbox.forget(self._write)
            if self._settlement is not None:
                self._shared.settling.withdraw(self._settlement)
        if receipt.outcome is Outcome.REJECTED:
            raise failures.rejected(self._write, receipt)
        if receipt.outcome is Outcome.WITHDRAWN:
            if self._write.rejection is not None:
                raise failures.discarded(self._write, self._write.rejection, receipt)
            raise failures.not_confirmed(self._write, self._options, receipt)
        return receipt

    async def _obtain_receipt(self) -> WriteReceipt:
        half = self._options.confirm_timeout.total_seconds() / 2
        append_by = self._began + self._options.submit_timeout.total_seconds()
        append = await self._append(append_by=append_by, receipt_by=append_by + half)
        if receipt := self._news:
            return receipt
        if append.answer is not None and append.answer.refused is not None:
            return await self._settle_unsubmitted(append.answer)
        if self._options.confirm_by is ConfirmBy.NONE:
            return self._queued()
        if not append.waited and (receipt := await self._receipt_until(workflow.time() + half)):
            return receipt
        return await self._submit_again(half) or await self._settle()

    async def _submit_again(self, half: float) -> WriteReceipt | None:
        if self._ledger_may_have_forgotten:
            return None
        workflow.logger.warning("%s has no receipt after half of the time, submitting again", self._write.name)
        # Counted from now, so that a caller whose own workers were down for longer still has its second half.
        deadline = workflow.time() + half
        append = await self._append(append_by=deadline, receipt_by=deadline)
        if append.answer is not None and append.answer.refused is not None:
            workflow.logger.warning("%s could not be submitted again: %s", self._write.name, append.answer.refused)
        # Also then: the entry of the first submit may still be in the queue.
        return await self._receipt_until(deadline)

    async def _settle_unsubmitted(self, answer: Appended) -> WriteReceipt:
        not_submitted = failures.not_submitted(self._write, self._options, given_up=answer.later)
        if self._write.certain:
            raise not_submitted
        # An append whose answer was lost may have been made: only the database knows.
        receipt = await self._settle()
        if receipt.outcome is Outcome.WITHDRAWN:
            raise not_submitted
        return receipt

    async def _obtain_replay(self, receipt: WriteReceipt) -> WriteReceipt:
        """Wait for a receipt that is no rejection, however long that takes."""
        while receipt.outcome is Outcome.REJECTED:
            workflow.logger.warning("%s waits for a replay: %s", self._write.name, receipt.error)
            self._known = receipt
            receipt = await self._replacement()
        return receipt

    async def _confirm_withdrawal(self, withdrawn: WriteReceipt) -> WriteReceipt:
        """Ask the ledger: whoever discards a dead letter withdraws it, but its replay may be under way."""
        self._known = withdrawn
        settled = await self._settle()
        return settled if settled.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE) else withdrawn

    async def _replacement(self) -> WriteReceipt:
        """Wait for the next receipt. If the dead letter is lost meanwhile, submit again."""
        pause = FIRST_LOOK_S
        while True:
            if receipt := await self._receipt_until(workflow.time() + pause):
                return receipt
            pause = min(2 * pause, LONGEST_LOOK_S)
            if not self._ledger_may_have_forgotten and await self._is_in_the_queue_again():
                pause = FIRST_LOOK_S

    async def _is_in_the_queue_again(self) -> bool:
        """Append the request unless it is a dead letter; whether it is in the queue now."""
        append_by = workflow.time() + self._options.submit_timeout.total_seconds()
        answer = (await self._append(append_by=append_by, receipt_by=append_by, unless_dead=True)).answer
        if answer is None:
            return False
        if answer.refused is not None:
            workflow.logger.warning("%s could not be submitted again: %s", self._write.name, answer.refused)
        elif not answer.dead:
            workflow.logger.warning("the dead letter of %s is gone, submitted again", self._write.name)
            return True
        return False

    async def _append(self, *, append_by: float, receipt_by: float, unless_dead: bool = False) -> Append:
        """Append the request; returns when there is an answer or a receipt."""
        append = Append(
            write=self._write,
            lane=EnqueueLane(options=self._options, unless_dead=unless_dead),
            append_by=append_by,
            receipt_by=receipt_by,
        )
        self._shared.enqueuing.post(append)
        try:
            while append.is_open and not self._has_news():
                await self._write.news()
        finally:
            self._shared.enqueuing.withdraw(append)
        if append.invalid is not None:
            raise append.invalid
        return append

    async def _receipt_until(self, deadline: float) -> WriteReceipt | None:
        if not self._has_news() and workflow.time() < deadline:
            alarm = self._shared.alarms.set(deadline, self._write.wake)
            try:
                while not self._has_news() and workflow.time() < deadline - TOGETHER_S:
                    await self._write.news()
            finally:
                alarm.switch_off()
        return self._news

    async def _settle(self) -> WriteReceipt:
        """Withdraw the request or learn its outcome, also when the caller is cancelled meanwhile. Raises
        `WriteOutcomeUnknown` when the database cannot be asked.
        """
        if await self._settled():
            raise asyncio.CancelledError
        return self._settled_receipt()

    async def _settled(self) -> bool:
        """Return when the write is settled, or cannot be; whether the caller was cancelled meanwhile."""
        if self._final_news is not None:
            return False
        if self._settlement is None:
            self._settlement = Settlement(write=self._write, lane=self._options)
            self._shared.settling.post(self._settlement)
        cancelled = False
        while not self._settlement.over and self._final_news is None:
            try:
                await self._write.news()
            except asyncio.CancelledError:
                if self._shared.is_evicted():
                    raise
                cancelled = True
        return cancelled

    def _settled_receipt(self) -> WriteReceipt:
        settlement = self._settlement
        receipt = self._final_news or (settlement.receipt if settlement else None)
        if receipt and (receipt.outcome is not Outcome.WITHDRAWN or not self._ledger_may_have_forgotten):
            return receipt
        if receipt:
            raise failures.perhaps_forgotten(self._write)
        raise failures.outcome_unknown(self._write, self._options, settlement.failure if settlement else None)

    async def _end_of_cancelled(self) -> WriteReceipt | WriteOutcomeUnknown:
        await self._settled()
        try:
            return self._settled_receipt()
        except WriteOutcomeUnknown as unknown:
            return unknown

    @property
    def _news(self) -> WriteReceipt | None:
        """The receipt, unless it is the one that is known."""
        return self._write.receipt if self._write.receipt is not self._known else None

    @property
    def _final_news(self) -> WriteReceipt | None:
        """The receipt that arrived, if no later one can contradict it. A withdrawal is final only when the ledger says
        so, and a rejection that may be replayed only once it is settled, which makes it a withdrawal for any replay.
        """
        receipt = self._news
        if receipt is None or receipt.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE):
            return receipt
        return receipt if receipt.outcome is Outcome.REJECTED and not waits_for_replay(self._options) else None

    def _has_news(self) -> bool:
        return self._news is not None

    @property
    def _ledger_may_have_forgotten(self) -> bool:
        """Whether the call began so long ago that the ledger may have forgotten it: the request must not be appended
        again, and nothing follows from the ledger's silence.
        """
        return workflow.time() - self._began > MAX_REQUEST_AGE.total_seconds()

    def _queued(self) -> WriteReceipt:
        request = self._write.request
        return WriteReceipt(
            request_id=request.request_id,
            outcome=Outcome.QUEUED,
            queue=self._write.queue,
            record_hash=request.record_hash,
        )


def waits_for_replay(options: WriteOptions) -> bool:
    """Whether a rejected write waits for an operator."""
    return options.on_rejected is OnRejected.WAIT and options.confirm_by is not ConfirmBy.NONE
