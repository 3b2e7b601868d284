"""Stand-ins that behave like the real thing: a queue, a sink, Temporal as the drain sees it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import repeat
from typing import cast

from temporalio import activity
from temporalio.client import Client
from temporalio.converter import DataConverter

from write_batcher.models import (
    CONFIRMATION_SIGNAL,
    Appended,
    Batch,
    ConfirmBy,
    Held,
    Outcome,
    Submission,
    WriteReceipt,
    WriteRequest,
)
from write_batcher.queue.contract import Contract
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.sql import ledger_row
from write_batcher.sinks.sql.ledger_row import LedgerRow, decided, settled


def written(request_id: str) -> WriteReceipt:
    return WriteReceipt(request_id=request_id, outcome=Outcome.WRITTEN, batch_id="batch-1", batch_size=1)


def receipt_for(request: WriteRequest, receipt: WriteReceipt, *, queue: str) -> WriteReceipt:
    """The receipt as the drain sends it: about this request, unless the receipt says something else already."""
    return replace(
        receipt,
        queue=receipt.queue or queue,
        attempt=receipt.attempt or request.attempt,
        record_hash=receipt.record_hash or with_hash(request).record_hash,
    )


class FakeQueue:
    """The activity `enqueue_write` without a stream. It records submissions, and confirms each request with the receipt
    that `answer` returns for it, the way the caller asked for; with none when that is None.
    """

    def __init__(self, answer: Callable[[WriteRequest], WriteReceipt | None] = lambda _: None) -> None:
        self._answer = answer
        self.submissions: list[Submission] = []

    @property
    def requests(self) -> list[WriteRequest]:
        return [request for submission in self.submissions for request in submission.requests]

    @property
    def request_ids(self) -> list[str]:
        return [request.request_id for request in self.requests]

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> list[Appended] | WriteReceipt:
        self.submissions.append(submission)
        answers = [(request, self._answer(request)) for request in submission.requests]
        receipts = [
            receipt_for(request, answer, queue=submission.queue) for request, answer in answers if answer is not None
        ]
        reply = submission.requests[0].reply
        if reply and reply.mode is ConfirmBy.COMPLETION:
            return receipts[0] if receipts else activity.raise_complete_async()
        if reply and receipts:
            caller = activity.client().get_workflow_handle(reply.workflow_id)
            await caller.signal(CONFIRMATION_SIGNAL, receipts)
        return [Appended(entry=f"0/{number}-0") for number, _ in enumerate(submission.requests, start=1)]


Identity = tuple[str, str]  # of a request in a ledger: queue and request id


class MemorySink:
    """A sink with a ledger, both in memory. `refuse` returns why a request is rejected, `hold` why it is held; both
    return None to accept it.
    """

    def __init__(
        self,
        refuse: Callable[[WriteRequest], str | None] = lambda _: None,
        *,
        sink_id: str = "memory",
        tables: Mapping[str, str] | None = None,
    ) -> None:
        self._refuse = refuse
        self.hold: Callable[[WriteRequest], str | None] = lambda _: None
        self.sink_id = sink_id
        self.tables = dict(tables or {})
        self._ledger: dict[Identity, LedgerRow] = {}
        self.batches: list[Batch] = []
        self.rows: list[WriteRequest] = []
        self.settled: list[WriteReceipt] = []

    @property
    def row_ids(self) -> list[str]:
        return [row.request_id for row in self.rows]

    async def write(self, batch: Batch) -> list[WriteReceipt | Held]:
        self.batches.append(batch)
        held_keys: set[str] = set()
        answers: list[WriteReceipt | Held] = []
        for request in batch.requests:
            reason = "behind a held one" if request.order_key in held_keys else self.hold(request)
            if reason is None:
                answers.append(self._write(request, batch))
            else:
                held_keys.add(request.order_key)
                answers.append(Held(request_id=request.request_id, reason=reason))
        return answers

    async def settle(self, request: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        request = with_hash(request)
        outcome = Outcome.WITHDRAWN if refused is None else Outcome.REJECTED
        if earlier := self._ledger.get((queue, request.request_id)):
            row, receipt = settled(request, outcome, error=refused, earlier=earlier)
        else:
            row = decided(request, outcome, queue=queue, error=refused)
            receipt = ledger_row.receipt_for(request, outcome, error=refused)
        if row:
            self._ledger[queue, request.request_id] = row
        self.settled.append(receipt)
        return receipt

    async def close(self) -> None:
        pass

    def refuse_all(self, reason: str | None) -> None:
        """Reject every new request with this reason; with None, no more. Earlier rejections still stand."""
        self._refuse = lambda _: reason

    def _write(self, request: WriteRequest, batch: Batch) -> WriteReceipt:
        request = with_hash(request)
        earlier = self._ledger.get((batch.queue, request.request_id))
        if earlier and (receipt := earlier.answer(request, batch_id=batch.batch_id)):
            return receipt
        error = self._refuse(request)
        if error is None:
            self.rows.append(request)
        outcome = Outcome.WRITTEN if error is None else Outcome.REJECTED
        self._ledger[batch.queue, request.request_id] = decided(
            request, outcome, queue=batch.queue, batch_id=batch.batch_id, error=error, earlier=earlier
        )
        return ledger_row.receipt_for(request, outcome, batch_id=batch.batch_id, error=error)


def contract_of(sink: object, *, partitions: int = 1, max_wait: timedelta = timedelta(seconds=20)) -> Contract:
    """The contract of a queue whose only batcher has this sink."""
    return Contract(
        sink_id=getattr(sink, "sink_id", ""),
        partitions=partitions,
        tables=getattr(sink, "tables", {}),
        max_wait_ms=max_wait // timedelta(milliseconds=1),
        max_items=100,
        max_request_bytes=262_144,
        max_backlog=100_000,
    )


class FakeTemporal:
    """What the drain needs of a Temporal client. It records signals and completions, and can fail or hold those to a
    caller: a workflow by its id, an activity by its activity id.
    """

    namespace = "fake"
    data_converter = DataConverter.default

    def __init__(self) -> None:
        self.signals: list[tuple[str, list[WriteReceipt]]] = []
        self.completions: list[tuple[str, str, str, WriteReceipt]] = []
        self.rpc_timeouts: list[timedelta | None] = []
        self.attempts: Counter[str] = Counter()
        self.held = 0
        """How many calls are being held."""
        self._failures: dict[str, Iterator[Exception]] = {}
        self._gates: dict[str, asyncio.Event] = {}

    @property
    def client(self) -> Client:
        return cast(Client, self)

    def fail(self, caller: str, error: Exception, *, times: int | None = None) -> None:
        """Fail the next `times` calls to one caller; with None, all of them."""
        self._failures[caller] = repeat(error) if times is None else repeat(error, times)

    def hold(self, caller: str) -> None:
        """Hold calls to one caller until `release`."""
        self._gates[caller] = asyncio.Event()

    def release(self, caller: str) -> None:
        self._gates[caller].set()

    def receipts(self, workflow_id: str) -> list[WriteReceipt]:
        """All receipts that a workflow has been sent by signal."""
        return [receipt for caller, receipts in self.signals if caller == workflow_id for receipt in receipts]

    def get_workflow_handle(self, workflow_id: str) -> "_FakeHandle":
        return _FakeHandle(self, workflow_id)

    def get_async_activity_handle(self, *, workflow_id: str, run_id: str, activity_id: str) -> "_FakeActivity":
        return _FakeActivity(self, workflow_id, run_id, activity_id)

    async def call(self, caller: str, rpc_timeout: timedelta | None) -> None:
        self.attempts[caller] += 1
        self.rpc_timeouts.append(rpc_timeout)
        if gate := self._gates.get(caller):
            self.held += 1
            try:
                await gate.wait()
            finally:
                self.held -= 1
        for error in self._failures.get(caller, ()):
            raise error


class _FakeActivity:
    def __init__(self, temporal: FakeTemporal, workflow_id: str, run_id: str, activity_id: str) -> None:
        self._temporal = temporal
        self._address = (workflow_id, run_id, activity_id)

    async def complete(self, result: WriteReceipt, *, rpc_timeout: timedelta | None = None) -> None:
        await self._temporal.call(self._address[-1], rpc_timeout)
        self._temporal.completions.append((*self._address, result))


class _FakeHandle:
    def __init__(self, temporal: FakeTemporal, workflow_id: str) -> None:
        self._temporal = temporal
        self._workflow_id = workflow_id

    async def signal(self, name: str, arg: list[WriteReceipt], *, rpc_timeout: timedelta | None = None) -> None:
        assert name == CONFIRMATION_SIGNAL
        await self._temporal.call(self._workflow_id, rpc_timeout)
        self._temporal.signals.append((self._workflow_id, arg))
