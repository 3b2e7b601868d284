"""Stand-ins that behave like the real thing: a queue, a sink, Temporal as the drain sees it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import repeat
from typing import cast

from temporalio import activity
from temporalio.client import Client
from temporalio.converter import DataConverter

from write_batcher.models import CONFIRMATION_SIGNAL, Batch, ConfirmBy, Outcome, Submission, WriteReceipt, WriteRequest


def written(request_id: str) -> WriteReceipt:
    return WriteReceipt(request_id=request_id, outcome=Outcome.WRITTEN, batch_id="batch-1", batch_size=1)


class FakeQueue:
    """The activity `enqueue_write` without a stream. It records submissions, and confirms each with the receipt that
    `answer` returns for it, the way the caller asked for; with none when that is None.
    """

    def __init__(self, answer: Callable[[WriteRequest], WriteReceipt | None] = lambda _: None) -> None:
        self._answer = answer
        self.submissions: list[Submission] = []

    @property
    def request_ids(self) -> list[str]:
        return [submission.request.request_id for submission in self.submissions]

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> str | WriteReceipt:
        self.submissions.append(submission)
        request = submission.request
        receipt = self._answer(request)
        if request.reply and request.reply.mode is ConfirmBy.COMPLETION:
            return receipt or activity.raise_complete_async()
        if request.reply and receipt:
            caller = activity.client().get_workflow_handle(request.reply.workflow_id)
            await caller.signal(CONFIRMATION_SIGNAL, [receipt])
        return "0/1-0"


class MemorySink:
    """A sink with a ledger, both in memory: `written` is final, a rejection or withdrawal binds its attempt. `refuse`
    returns why a request is rejected, None to accept it.
    """

    def __init__(self, refuse: Callable[[WriteRequest], str | None] = lambda _: None) -> None:
        self._refuse = refuse
        self._written: dict[str, WriteReceipt] = {}
        self._bound: dict[tuple[str, str | None], WriteReceipt] = {}
        self._askers: dict[tuple[str, str | None], WriteRequest] = {}
        self.batches: list[Batch] = []
        self.rows: list[WriteRequest] = []
        self.settled: list[WriteReceipt] = []

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        self.batches.append(batch)
        return [self._write(request, batch.batch_id) for request in batch.requests]

    async def settle(self, request: WriteRequest, *, refused: str | None = None) -> WriteReceipt:
        receipt = self._written.get(request.request_id)
        if receipt is None and refused is not None:
            receipt = self._bind(request, Outcome.REJECTED, error=refused)
        receipt = receipt or self._bind(request, Outcome.WITHDRAWN)
        self.settled.append(receipt)
        return receipt

    def refuse_all(self, reason: str | None) -> None:
        """Reject every new request with this reason; with None, no more. Earlier rejections still stand."""
        self._refuse = lambda _: reason

    def repair(self) -> None:
        """Reject no more and forget all rejections, like an operator who repairs the cause and replays."""
        self.refuse_all(None)
        self._bound = {key: bound for key, bound in self._bound.items() if bound.outcome is not Outcome.REJECTED}

    async def close(self) -> None:
        pass

    def _write(self, request: WriteRequest, batch_id: str) -> WriteReceipt:
        request_id = request.request_id
        if known := self._written.get(request_id):
            return replace(known, outcome=Outcome.DUPLICATE)
        if bound := self._bound_by(request):
            return bound
        if error := self._refuse(request):
            return self._bind(request, Outcome.REJECTED, batch_id=batch_id, error=error)
        self.rows.append(request)
        self._written[request_id] = WriteReceipt(
            request_id=request_id, outcome=Outcome.WRITTEN, attempt=request.attempt, batch_id=batch_id
        )
        return self._written[request_id]

    def _bound_by(self, request: WriteRequest) -> WriteReceipt | None:
        """What binds the attempt, as in the ledger: its own outcome, or that of a later attempt of its workflow."""
        if bound := self._bound.get((request.request_id, request.attempt)):
            return bound
        for key, asker in self._askers.items():
            same_workflow = asker.reply and request.reply and asker.reply.workflow_id == request.reply.workflow_id
            is_later = (request.asked_ms or 0) < (asker.asked_ms or 0)
            if key in self._bound and key[0] == request.request_id and same_workflow and is_later:
                return replace(self._bound[key], attempt=request.attempt)
        return None

    def _bind(self, request: WriteRequest, outcome: Outcome, **receipt: str) -> WriteReceipt:
        new = WriteReceipt(request_id=request.request_id, outcome=outcome, attempt=request.attempt, **receipt)  # type: ignore[arg-type] # only texts are given
        self._askers.setdefault((request.request_id, request.attempt), request)
        return self._bound.setdefault((request.request_id, request.attempt), new)


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
            await gate.wait()
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
