"""What several tests use."""

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import repeat
from typing import cast

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.converter import DataConverter

from write_batcher.activities.confirm import CONFIRMATION_SIGNAL
from write_batcher.models import Batch, Outcome, Submission, WriteReceipt, WriteRequest


async def eventually(check: Callable[[], int | Awaitable[int]], *, within_s: float = 20.0) -> None:
    """Wait until `check` holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + within_s
    while True:
        held = check()
        if inspect.isawaitable(held):
            held = await held
        if held:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"did not become true within {within_s:g}s: {inspect.getsource(check).strip()}")
        await asyncio.sleep(0.02)


def written(request_id: str) -> WriteReceipt:
    return WriteReceipt(request_id=request_id, outcome=Outcome.WRITTEN, batch_id="batch-1", batch_size=1)


class FakeQueue:
    """The activity `enqueue_write` without a stream. It keeps what is submitted, and sends the caller the receipt that
    `answer` makes of its request.
    """

    def __init__(self, answer: Callable[[WriteRequest], WriteReceipt | None] = lambda _: None) -> None:
        self._answer = answer
        self.submissions: list[Submission] = []

    @property
    def request_ids(self) -> list[str]:
        return [submission.request.request_id for submission in self.submissions]

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> str:
        self.submissions.append(submission)
        request = submission.request
        receipt = self._answer(request)
        if receipt and request.reply:
            await (
                activity.client().get_workflow_handle(request.reply.workflow_id).signal(CONFIRMATION_SIGNAL, [receipt])
            )
        return "0/1-0"


class MemorySink:
    """A sink with a ledger, both in memory; `refuse` says why a request is rejected."""

    def __init__(self, refuse: Callable[[WriteRequest], str | None] = lambda _: None) -> None:
        self._refuse = refuse
        self._ledger: dict[str, WriteReceipt] = {}
        self.batches: list[Batch] = []
        self.rows: list[WriteRequest] = []

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        self.batches.append(batch)
        return [self._write(request, batch.batch_id) for request in batch.requests]

    async def settle(self, request: WriteRequest) -> WriteReceipt:
        run_id = request.reply.run_id if request.reply else None
        withdrawn = WriteReceipt(request_id=request.request_id, outcome=Outcome.WITHDRAWN, run_id=run_id)
        return self._ledger.setdefault(request.request_id, withdrawn)

    async def close(self) -> None:
        pass

    def _write(self, request: WriteRequest, batch_id: str) -> WriteReceipt:
        request_id = request.request_id
        if known := self._ledger.get(request_id):
            if known.outcome is Outcome.WITHDRAWN:
                return known
            return replace(known, outcome=Outcome.DUPLICATE)
        if error := self._refuse(request):
            return WriteReceipt(request_id=request_id, outcome=Outcome.REJECTED, batch_id=batch_id, error=error)
        self.rows.append(request)
        self._ledger[request_id] = WriteReceipt(request_id=request_id, outcome=Outcome.WRITTEN, batch_id=batch_id)
        return self._ledger[request_id]


class FakeTemporal:
    """What the drain needs of a Temporal client: it keeps the signals, and fails or holds those to named callers."""

    namespace = "fake"
    data_converter = DataConverter.default

    def __init__(self) -> None:
        self.signals: list[tuple[str, list[WriteReceipt]]] = []
        self.rpc_timeouts: list[timedelta | None] = []
        self.attempts: Counter[str] = Counter()
        self.waiting = 0
        self._failures: dict[str, Iterator[Exception]] = {}
        self._gates: dict[str, asyncio.Event] = {}

    @property
    def client(self) -> Client:
        return cast(Client, self)

    def fail(self, workflow_id: str, error: Exception, *, times: int | None = None) -> None:
        """Fail the next `times` signals to one caller, or all of them."""
        self._failures[workflow_id] = repeat(error) if times is None else repeat(error, times)

    def hold(self, workflow_id: str) -> None:
        """Let signals to one caller wait until `let_go`."""
        self._gates[workflow_id] = asyncio.Event()

    def let_go(self, workflow_id: str) -> None:
        self._gates[workflow_id].set()

    def receipts(self, workflow_id: str) -> list[WriteReceipt]:
        """All that one caller has received."""
        return [receipt for caller, receipts in self.signals if caller == workflow_id for receipt in receipts]

    def get_workflow_handle(self, workflow_id: str) -> "_FakeHandle":
        return _FakeHandle(self, workflow_id)

    async def signal(self, workflow_id: str, receipts: list[WriteReceipt], rpc_timeout: timedelta | None) -> None:
        self.attempts[workflow_id] += 1
        self.rpc_timeouts.append(rpc_timeout)
        if gate := self._gates.get(workflow_id):
            self.waiting += 1
            await gate.wait()
            self.waiting -= 1
        for error in self._failures.get(workflow_id, ()):
            raise error
        self.signals.append((workflow_id, receipts))


class _FakeHandle:
    def __init__(self, temporal: FakeTemporal, workflow_id: str) -> None:
        self._temporal = temporal
        self._workflow_id = workflow_id

    async def signal(self, name: str, arg: list[WriteReceipt], *, rpc_timeout: timedelta | None = None) -> None:
        assert name == CONFIRMATION_SIGNAL
        await self._temporal.signal(self._workflow_id, arg, rpc_timeout)
