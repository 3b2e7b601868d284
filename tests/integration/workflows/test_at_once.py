"""Many submits at once: few activities, a bounded workflow task, and every one with its own receipt."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from tests.support.fakes import FakeQueue, MemorySink, written
from tests.support.order_callers import (
    Order,
    Stack,
    about,
    caller,
    events_of,
    kinds_of,
    receipts_of,
    result_of,
    settling,
    start,
)
from tests.support.waiting import eventually
from write_batcher.models import CONFIRMATION_SIGNAL, Appended, ConfirmBy, Outcome, Submission
from write_batcher.workflows.batched_writes import BatchedWrites
from write_batcher.workflows.outbox import MAX_ACTIVITIES_UNDER_WAY, MAX_BYTES_UNDER_WAY
from write_batcher.workflows.write_options import WriteOptions

BATCH = 100  # receipts in one signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """`count` records of `size` characters, submitted at once."""

    count: int
    size: int = 10
    character: str = "x"
    queue: str = "default"
    batcher_task_queue: str | None = None
    confirm_by: ConfirmBy = ConfirmBy.SIGNAL


@workflow.defn
class Crowded:
    """Returns how many of its writes got a receipt of their own."""

    @workflow.init
    def __init__(self, crowd: Crowd) -> None:
        self.writes = BatchedWrites(
            WriteOptions(
                queue=crowd.queue,
                batcher_task_queue=crowd.batcher_task_queue,
                confirm_by=crowd.confirm_by,
                confirm_timeout=timedelta(minutes=10),
            )
        )

    @workflow.run
    async def run(self, crowd: Crowd) -> int:
        records = [{"item": str(number), "data": crowd.character * crowd.size} for number in range(crowd.count)]
        receipts = await asyncio.gather(*[self.writes.submit("orders", record) for record in records])
        return len({receipt.request_id for receipt in receipts if receipt.outcome is Outcome.WRITTEN})


class Batcher:
    """The activity `enqueue_write` of a queue whose drain confirms whole batches, after the append has returned."""

    def __init__(self) -> None:
        self.under_way: Counter[str] = Counter()
        self.most = Counter[str]()
        self.sizes: list[int] = []
        self._confirming: set[asyncio.Task[None]] = set()

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> list[Appended]:
        info = activity.info()
        [payload] = activity.payload_converter().to_payloads([submission])
        now = {"activities": 1, "bytes": len(payload.data)}
        self.under_way.update(now)
        self.most |= self.under_way
        self.sizes.append(len(submission.requests))
        await asyncio.sleep(0.01)
        self.under_way.subtract(now)
        confirming = asyncio.create_task(self._confirm(info.workflow_id or "", submission))
        self._confirming.add(confirming)
        confirming.add_done_callback(self._confirming.discard)
        return [Appended(entry=f"0/{number}-0") for number, _ in enumerate(submission.requests)]

    async def _confirm(self, workflow_id: str, submission: Submission) -> None:
        await asyncio.sleep(0.1)
        handle = self.client.get_workflow_handle(workflow_id)
        receipts = [about(request) for request in submission.requests]
        for first in range(0, len(receipts), BATCH):
            await handle.signal(CONFIRMATION_SIGNAL, receipts[first : first + BATCH])

    client: Client


async def crowd_through(
    client: Client, name: str, crowd: Crowd, *, cached: int = 1000, task_limit_s: int | None = None
) -> tuple[Batcher, WorkflowHandle[Crowded, int], int]:
    batcher = Batcher()
    batcher.client = client
    worker = Worker(
        client,
        task_queue=name,
        workflows=[Crowded],
        activities=[batcher.enqueue_write],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=cached,
    )
    if task_limit_s is not None:
        assert worker._workflow_worker is not None
        worker._workflow_worker._deadlock_timeout_seconds = task_limit_s
    async with worker:
        handle = await client.start_workflow(Crowded.run, crowd, id=name, task_queue=name)
        async with asyncio.timeout(100):
            return batcher, handle, await handle.result()


@pytest.mark.parametrize(
    "crowd",
    [
        Crowd(count=2100),
        Crowd(count=60, size=100_000),
        Crowd(count=20, size=240_000),
        Crowd(count=3, size=900_000),
        Crowd(count=40, size=30_000, character="ж"),
    ],
    ids=lambda crowd: f"{crowd.count} of {crowd.size}",
)
async def test_writes_at_once_are_all_written_whatever_they_weigh(client: Client, name: str, crowd: Crowd) -> None:
    batcher, handle, written_ones = await crowd_through(client, name, crowd)
    assert written_ones == crowd.count
    assert batcher.most["activities"] <= MAX_ACTIVITIES_UNDER_WAY
    assert batcher.most["bytes"] <= MAX_BYTES_UNDER_WAY
    assert await failed_tasks(handle) == 0
    replayer = Replayer(workflows=[Crowded], workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(await handle.fetch_history())


async def failed_tasks(handle: WorkflowHandle[Crowded, int]) -> int:
    """Workflow tasks that failed or took too long."""
    kinds = [event.event_type for event in await events_of(handle)]
    failed = (EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED, EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
    return sum(kind in failed for kind in kinds)


async def test_writes_at_once_are_written_by_workers_that_forget_the_workflow(client: Client, name: str) -> None:
    _, _, written_ones = await crowd_through(client, name, Crowd(count=1200), cached=0)
    assert written_ones == 1200


async def test_many_writes_at_once_cost_one_activity_one_timer_and_a_signal_per_batch(
    client: Client, name: str
) -> None:
    batcher, handle, _ = await crowd_through(client, name, Crowd(count=BATCH))
    kinds = Counter(await kinds_of(handle))
    costs = [kinds[kind] for kind in ("activity task scheduled", "timer started", "workflow execution signaled")]
    assert (batcher.sizes, costs) == ([BATCH], [1, 1, 1])


@pytest.mark.thorough
async def test_ten_thousand_writes_at_once_cost_few_actions(client: Client, name: str) -> None:
    # Their first workflow task takes 0.4 s of a core. The SDK allows 2 s by the clock, which other tests may use up.
    _, handle, written_ones = await crowd_through(client, name, Crowd(count=10_000), task_limit_s=30)
    kinds = Counter(await kinds_of(handle))
    activities, timers, signals = (
        kinds[kind] for kind in ("activity task scheduled", "timer started", "workflow execution signaled")
    )
    assert written_ones == 10_000
    # Receipts of one batch go in one signal; a batch is cut where an activity ends.
    assert signals <= 10_000 // BATCH + activities
    assert activities + timers <= 40


async def test_writes_one_after_the_other_share_a_timer(client: Client, name: str) -> None:
    batcher = Batcher()
    batcher.client = client
    async with caller(client, name, batcher.enqueue_write):
        handle = await start(client, name, Order(items=("a", "b", "c"), one_by_one=True))
        await receipts_of(handle)
    assert Counter(await kinds_of(handle))["timer started"] == 1


async def test_writes_at_once_by_completion_are_confirmed_by_signal(client: Client, name: str) -> None:
    batcher, handle, written_ones = await crowd_through(client, name, Crowd(count=50, confirm_by=ConfirmBy.COMPLETION))
    assert (written_ones, batcher.sizes) == (50, [50])
    assert Counter(await kinds_of(handle))["workflow execution signaled"] == 1


async def test_writes_at_once_that_are_cancelled_are_settled_together(client: Client, name: str) -> None:
    queue, ledger = FakeQueue(), MemorySink()
    async with caller(client, name, queue.enqueue_write, settling(ledger)):
        items = tuple(str(number) for number in range(250))
        handle = await start(client, name, Order(items=items, batcher_task_queue=name))
        await eventually(lambda: len(queue.requests) == 250)
        await handle.cancel()
        await eventually(lambda: len(ledger.settled) == 250)
        with pytest.raises(Exception, match="Workflow execution failed"):
            await result_of(handle)
    assert Counter(await kinds_of(handle))["activity task scheduled"] == 1 + 3


async def test_one_queue_that_accepts_nothing_does_not_hold_up_another(client: Client, name: str) -> None:
    queue = FakeQueue(lambda request: written(request.request_id))
    accepts_west = asyncio.Event()

    @activity.defn
    async def enqueue_write(submission: Submission) -> object:
        if submission.queue == "west":
            await accepts_west.wait()
        return await queue.enqueue_write(submission)

    async with caller(client, name, enqueue_write):
        handle = await start(client, name, Order(queues=("west", "east"), items=("a", "b")))
        await eventually(lambda: [submission.queue for submission in queue.submissions] == ["east"])
        accepts_west.set()
        assert len(await receipts_of(handle)) == 4


@pytest.mark.thorough
async def test_two_thousand_writes_at_once_go_through_a_real_queue(stack: Stack) -> None:
    await stack.drain()
    crowd = Crowd(count=2_000, queue=stack.name, batcher_task_queue=stack.order.batcher_task_queue)
    async with Worker(
        stack.client,
        task_queue=f"{stack.name}-crowd",
        workflows=[Crowded],
        activities=[stack.enqueue.enqueue_write],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handle = await stack.client.start_workflow(Crowded.run, crowd, id=stack.name, task_queue=f"{stack.name}-crowd")
        async with asyncio.timeout(100):
            assert await handle.result() == 2_000
    assert len(stack.sink.rows) == 2_000
