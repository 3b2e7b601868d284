"""Records the histories that `test_replay.py` replays:
`.venv/bin/python -m tests.integration.workflows.record_histories [NAME...]`.

Do not record an existing history again unless it may be forgotten: it stands for workflows that run while a new version
is deployed. Give a new history a new name.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.testing import TimeSkipper
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.fakes import FakeQueue, MemorySink, written
from tests.support.order_callers import Order, Orders, about, events_of, finished_tasks, reset
from tests.support.waiting import eventually
from write_batcher.activities.business import do_business_step
from write_batcher.models import (
    CONFIRMATION_SIGNAL,
    Appended,
    ConfirmBy,
    DrainEnd,
    DrainInput,
    DrainProgress,
    DrainResult,
    Outcome,
    PartitionRef,
    Settled,
    Submission,
    WriteReceipt,
    WriteRequest,
)
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workflows.batcher import BatcherInput, BatcherState, BatcherWorkflow
from write_batcher.workflows.main import MainInput, MainWorkflow
from write_batcher.workflows.write_options import OnRejected, WriteOptions

HISTORIES = Path(__file__).parent / "histories"
TASK_QUEUE = "recorder"
TIME_SKIPPING = ("--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true")

Scenario = Callable[[Client], Awaitable[WorkflowHandle[Any, Any]]]


async def main_completed(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with worker(client, queue.enqueue_write):
        return await ended(await start_main(client))


async def main_resubmitted(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue(lambda request: written(request.request_id) if len(queue.submissions) > 1 else None)
    async with worker(client, queue.enqueue_write):
        handle = await start_main(client)
        await eventually(lambda: len(queue.submissions) == 1)
        await TimeSkipper(client).fast_forward(handle, WriteOptions().confirm_timeout / 2)
        return await ended(handle)


async def main_settled_withdrawn(client: Client) -> WorkflowHandle[Any, Any]:
    async with worker(client, FakeQueue().enqueue_write, settle_write):
        return await ended(await start_main(TimeSkipper(client).client))


async def main_settled_written(client: Client) -> WorkflowHandle[Any, Any]:
    @activity.defn
    async def settle_write(submission: Submission) -> list[Settled]:
        return [Settled(receipt=about(request)) for request in submission.requests]

    async with worker(client, FakeQueue().enqueue_write, settle_write):
        return await ended(await start_main(TimeSkipper(client).client))


async def main_outcome_unknown(client: Client) -> WorkflowHandle[Any, Any]:
    async with worker(client, FakeQueue().enqueue_write):
        return await ended(await start_main(TimeSkipper(client).client))


async def main_cancelled(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue()
    async with worker(client, queue.enqueue_write, settle_write):
        handle = await start_main(client)
        await eventually(lambda: bool(queue.submissions))
        await handle.cancel()
        return await ended(handle)


async def main_not_submitted(client: Client) -> WorkflowHandle[Any, Any]:
    @activity.defn
    async def enqueue_write(submission: Submission) -> list[Appended]:
        return [Appended(refused="The record is too large.") for _ in submission.requests]

    async with worker(client, enqueue_write):
        return await ended(await start_main(client))


async def main_rejected(client: Client) -> WorkflowHandle[Any, Any]:
    async with worker(client, FakeQueue(rejected).enqueue_write):
        return await ended(await start_main(client))


async def main_by_completion_completed(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with worker(client, queue.enqueue_write):
        return await ended(await start_main(client, confirm_by=ConfirmBy.COMPLETION))


async def main_by_completion_resubmitted(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue(lambda request: written(request.request_id) if len(queue.submissions) > 1 else None)
    async with worker(client, queue.enqueue_write):
        # In real time: time is not skipped while an activity is open.
        return await ended(await start_main(client, confirm_by=ConfirmBy.COMPLETION, confirm_timeout_s=4.0))


async def main_by_completion_rejected(client: Client) -> WorkflowHandle[Any, Any]:
    async with worker(client, FakeQueue(rejected).enqueue_write):
        return await ended(await start_main(client, confirm_by=ConfirmBy.COMPLETION))


async def main_by_completion_cancelled(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue()
    async with worker(client, queue.enqueue_write, settle_write):
        handle = await start_main(client, confirm_by=ConfirmBy.COMPLETION)
        await eventually(lambda: bool(queue.submissions))
        await handle.cancel()
        return await ended(handle)


async def orders_rejected_then_replayed(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue(rejected)
    async with worker(client, queue.enqueue_write):
        order = Order(on_rejected=OnRejected.WAIT)
        handle = await client.start_workflow(Orders.run, order, id="orders", task_queue=TASK_QUEUE)
        await eventually(lambda: has_handled_a_signal(handle))
        await handle.signal(CONFIRMATION_SIGNAL, [about(queue.requests[0])])
        return await ended(handle)


async def orders_several_at_once(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue(lambda request: written(request.request_id))
    async with worker(client, queue.enqueue_write):
        order = Order(items=("tea", "cake", "milk"))
        return await ended(await client.start_workflow(Orders.run, order, id="orders", task_queue=TASK_QUEUE))


async def orders_rejected_then_reset(client: Client) -> WorkflowHandle[Any, Any]:
    queue = FakeQueue(lambda request: written(request.request_id) if len(queue.submissions) > 1 else rejected(request))
    async with worker(client, queue.enqueue_write):
        handle = await client.start_workflow(Orders.run, Order(), id="orders", task_queue=TASK_QUEUE)
        await ended(handle)
        return await ended(await reset(client, handle, (await finished_tasks(handle))[0]))


async def batcher_continued_as_new(client: Client) -> WorkflowHandle[Any, Any]:
    @activity.defn
    async def drain(_drain: DrainInput) -> DrainResult:
        return DrainResult(end=DrainEnd.EXPIRED, progress=DrainProgress(batches=3))

    async with worker(client, drain):
        handle = await start_batcher(client)
        first_run = client.get_workflow_handle(handle.id, run_id=handle.result_run_id)
        await eventually(lambda: has_ended(first_run))
        await handle.terminate()
        return first_run


async def batcher_reconfigured(client: Client) -> WorkflowHandle[Any, Any]:
    @activity.defn
    async def drain(drain_input: DrainInput) -> DrainResult:
        if drain_input.heartbeat_timeout_ms == 10_000:
            return DrainResult(end=DrainEnd.RECONFIGURED, progress=DrainProgress(), heartbeat_timeout_ms=3_000)
        return DrainResult(end=DrainEnd.EXPIRED, progress=DrainProgress())

    async with worker(client, drain):
        handle = await start_batcher(client)
        first_run = client.get_workflow_handle(handle.id, run_id=handle.result_run_id)
        await eventually(lambda: has_ended(first_run))
        await handle.terminate()
        return first_run


async def batcher_paused_resumed_flushed_stopped(client: Client) -> WorkflowHandle[Any, Any]:
    async with worker(client, drain_until_cancelled, flush):
        handle = await start_batcher(client)
        await eventually(lambda: is_draining(handle))
        await handle.signal(BatcherWorkflow.flush)
        await handle.signal(BatcherWorkflow.pause)
        await eventually(lambda: has_drained(handle, BatcherState.PAUSED))
        await handle.signal(BatcherWorkflow.flush)
        await handle.signal(BatcherWorkflow.resume)
        await eventually(lambda: is_draining(handle))
        await handle.signal(BatcherWorkflow.stop)
        return await ended(handle)


async def batcher_cancelled(client: Client) -> WorkflowHandle[Any, Any]:
    async with worker(client, drain_until_cancelled):
        handle = await start_batcher(client)
        await eventually(lambda: is_draining(handle))
        await handle.cancel()
        return await ended(handle)


async def batcher_retired(client: Client) -> WorkflowHandle[Any, Any]:
    @activity.defn
    async def drain(_drain: DrainInput) -> DrainResult:
        return DrainResult(end=DrainEnd.RETIRED, progress=DrainProgress())

    async with worker(client, drain):
        return await ended(await start_batcher(client))


SCENARIOS: list[Scenario] = [
    main_completed,
    main_resubmitted,
    main_settled_withdrawn,
    main_settled_written,
    main_outcome_unknown,
    main_cancelled,
    main_not_submitted,
    main_rejected,
    main_by_completion_completed,
    main_by_completion_resubmitted,
    main_by_completion_rejected,
    main_by_completion_cancelled,
    orders_rejected_then_replayed,
    orders_rejected_then_reset,
    orders_several_at_once,
    batcher_continued_as_new,
    batcher_reconfigured,
    batcher_paused_resumed_flushed_stopped,
    batcher_cancelled,
    batcher_retired,
]


def rejected(request: WriteRequest) -> WriteReceipt:
    return replace(about(request), outcome=Outcome.REJECTED, error="cents must be positive")


@activity.defn
async def settle_write(submission: Submission) -> list[Settled]:
    sink = MemorySink()
    return [
        Settled(receipt=about(request, await sink.settle(request, queue="default/default")))
        for request in submission.requests
    ]


@activity.defn(name="drain")
async def drain_until_cancelled(_drain: DrainInput) -> DrainResult:
    try:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return DrainResult(end=DrainEnd.STOPPED, progress=DrainProgress())


@activity.defn
async def flush(_partition: PartitionRef) -> None:
    pass


@asynccontextmanager
async def worker(client: Client, *activities: Callable[..., Any]) -> AsyncIterator[None]:
    async with Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[MainWorkflow, BatcherWorkflow, Orders],
        activities=[do_business_step, *activities],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield


async def start_main(client: Client, **changes: Any) -> WorkflowHandle[Any, Any]:
    order = replace(MainInput(item="tea", cents=450, business_s=0.0, batcher_task_queue=TASK_QUEUE), **changes)
    return await client.start_workflow(MainWorkflow.run, order, id="main", task_queue=TASK_QUEUE)


async def start_batcher(client: Client) -> WorkflowHandle[Any, Any]:
    batcher = BatcherInput(partition=PartitionRef(queue="default", partition=0))
    return await client.start_workflow(BatcherWorkflow.run, batcher, id="batcher", task_queue=TASK_QUEUE)


async def ended(handle: WorkflowHandle[Any, Any]) -> WorkflowHandle[Any, Any]:
    with suppress(WorkflowFailureError):
        await handle.result()
    return handle


async def has_ended(handle: WorkflowHandle[Any, Any]) -> bool:
    return (await handle.describe()).close_time is not None


async def has_handled_a_signal(handle: WorkflowHandle[Any, Any]) -> bool:
    kinds = [event.event_type for event in await events_of(handle)]
    signaled, completed = (
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    )
    return signaled in kinds and completed in kinds[kinds.index(signaled) :]


async def is_draining(handle: WorkflowHandle[Any, Any]) -> bool:
    pending = (await handle.describe()).raw_description.pending_activities
    return any(one.activity_type.name == "drain" and one.HasField("last_started_time") for one in pending)


async def has_drained(handle: WorkflowHandle[Any, Any], state: BatcherState) -> bool:
    status = await handle.query(BatcherWorkflow.status)
    return status.state is state and status.drains > 0


def without_traces_of_this_machine(event: Any) -> Any:
    """Drop stack traces: they hold paths, change with every line, and do not matter to a replay."""
    if isinstance(event, dict):
        return {key: without_traces_of_this_machine(value) for key, value in event.items() if key != "stackTrace"}
    return [without_traces_of_this_machine(item) for item in event] if isinstance(event, list) else event


async def record(wanted: list[str]) -> None:
    HISTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with TemporalServer(Path(folder), in_memory=True, extra=TIME_SKIPPING) as server:
            client = await Client.connect(server.address, identity="recorder")
            for scenario in SCENARIOS:
                if wanted and scenario.__name__ not in wanted:
                    continue
                async with asyncio.timeout(60):
                    history = (await (await scenario(client)).fetch_history()).to_json_dict()
                text = json.dumps(without_traces_of_this_machine(history), indent=1)
                (HISTORIES / f"{scenario.__name__}.json").write_text(f"{text}\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:]))
