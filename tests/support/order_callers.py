"""Workflows that submit orders, for several tests, with their worker and a batcher."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from tests.support.fakes import MemorySink, contract_of, receipt_for, written
from write_batcher.activities.drain.activity import DrainActivities
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.enqueue import EnqueueActivities
from write_batcher.activities.settle import SettleActivities
from write_batcher.models import ConfirmBy, PartitionRef, QueueRef, WriteReceipt, WriteRequest
from write_batcher.queue.contract import Contract, ContractStore, Terms
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.stream import WriteQueue
from write_batcher.workflows.batched_writes import BatchedWrites
from write_batcher.workflows.batcher import BatcherInput, BatcherWorkflow, batcher_workflow_id
from write_batcher.workflows.write_options import OnRejected, WriteOptions

if TYPE_CHECKING:  # the sandbox of a replay loads this module, and cannot load the library for certificates
    from tests.support.redis_kinds import AnyRedis

RESULT_TIMEOUT_S = 20
CONFIRMING_MODES = [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION]
LIMITS = BatchLimits(
    max_items=10,
    max_bytes=10_000,
    max_wait=timedelta(milliseconds=50),
    max_request_bytes=10_000,
    max_dead_letters=100,
    dead_letter_retention=timedelta(days=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Each of `items` is submitted to each of `queues`, all at once or `one_by_one`; then the workflow continues as new
    while `continue_as_new` is above 0.
    """

    queues: tuple[str, ...] = ("default",)
    items: tuple[str, ...] = ("only",)
    one_by_one: bool = False
    request_id: str | None = None
    continue_as_new: int = 0
    batcher_task_queue: str = "batcher-queue"
    confirm_by: ConfirmBy = ConfirmBy.SIGNAL
    on_rejected: OnRejected = OnRejected.FAIL
    submit_timeout_s: float = 600.0
    confirm_timeout_s: float = 120.0
    settle_timeout_s: float = 60.0

    def options(self, queue: str) -> WriteOptions:
        return WriteOptions(
            queue=queue,
            confirm_by=self.confirm_by,
            on_rejected=self.on_rejected,
            submit_timeout=timedelta(seconds=self.submit_timeout_s),
            confirm_timeout=timedelta(seconds=self.confirm_timeout_s),
            settle_timeout=timedelta(seconds=self.settle_timeout_s),
            batcher_task_queue=self.batcher_task_queue,
        )


@workflow.defn
class Orders:
    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = [BatchedWrites(order.options(queue)) for queue in order.queues]

    @workflow.run
    async def run(self, order: Order) -> list[WriteReceipt]:
        submits = [
            writes.submit("orders", {"item": item}, request_id=order.request_id)
            for writes in self.writes
            for item in order.items
        ]
        if order.one_by_one:
            receipts = [await submit for submit in submits]
        else:
            receipts = await asyncio.gather(*submits)
        if order.continue_as_new:
            workflow.continue_as_new(replace(order, continue_as_new=order.continue_as_new - 1))
        return receipts


@workflow.defn
class CancellingCaller:
    """Cancels its submit at every signal `give_up`; returns the message of the cancellation, or the outcome."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = BatchedWrites(order.options(order.queues[0]))
        self.submitting: asyncio.Task[WriteReceipt] | None = None

    @workflow.run
    async def run(self, order: Order) -> str:
        self.submitting = asyncio.create_task(self.writes.submit("orders", {"item": "only"}))
        try:
            return (await self.submitting).outcome.value
        except asyncio.CancelledError as error:
            return str(error)

    @workflow.signal
    def give_up(self) -> None:
        assert self.submitting is not None
        self.submitting.cancel()


@workflow.defn
class TimedCaller:
    """Gives its submit one second; returns the message of the timeout, or the outcome."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self.writes = BatchedWrites(order.options(order.queues[0]))

    @workflow.run
    async def run(self, order: Order) -> str:
        try:
            async with asyncio.timeout(1):
                return (await self.writes.submit("orders", {"item": "only"})).outcome.value
        except TimeoutError as error:
            return f"too late, {error.__cause__}"


Handle = WorkflowHandle[Orders, list[WriteReceipt]]
WORKFLOWS = [Orders, CancellingCaller, TimedCaller]


@asynccontextmanager
async def caller(
    client: Client,
    name: str,
    *activities: Callable[..., Any],
    workflows: Sequence[type] = WORKFLOWS,
    cached: int = 1000,
) -> AsyncIterator[None]:
    """A worker of the callers; `cached` is the number of workflows that it does not replay at every step."""
    # Unsandboxed: a sandbox would load this module and pytest anew for every workflow.
    async with Worker(
        client,
        task_queue=name,
        workflows=workflows,
        activities=activities,
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=cached,
    ):
        yield


def about(request: WriteRequest, receipt: WriteReceipt | None = None) -> WriteReceipt:
    """A receipt as the drain sends it for a request of the queue `default`; by default, that it is written."""
    return receipt_for(request, receipt or written(request.request_id), queue="default")


def settling(sink: MemorySink, queue: str = "default") -> Callable[..., Any]:
    """The activity `settle_write` of the batcher of a queue."""
    return SettleActivities(QueueRef(namespace="default", name=queue), sink, lambda: contract_of(sink)).settle_write


async def start(client: Client, name: str, order: Order | None = None) -> Handle:
    return await client.start_workflow(
        Orders.run, order or Order(), id=f"{name}-{uuid.uuid4().hex[:4]}", task_queue=name
    )


async def result_of(handle: WorkflowHandle[Any, Any]) -> Any:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        return await handle.result()


async def receipts_of(handle: Handle) -> list[WriteReceipt]:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        return await handle.result()


async def cause_of(handle: WorkflowHandle[Any, Any]) -> BaseException:
    """Why the workflow failed."""
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
    return failure.value.cause


async def failure_of(handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    cause = await cause_of(handle)
    assert isinstance(cause, ApplicationError)
    return cause


async def events_of(handle: WorkflowHandle[Any, Any]) -> list[HistoryEvent]:
    return list((await handle.fetch_history()).events)


async def kinds_of(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The types of the workflow's events, but for those of workflow tasks."""
    names = [
        EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower().replace("_", " ")
        for event in await events_of(handle)
    ]
    return [name for name in names if not name.startswith("workflow task")]


async def replays(handle: WorkflowHandle[Any, Any]) -> None:
    """Replay the workflow; fails when it does not follow its own history."""
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner())
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        await replayer.replay_workflow(await handle.fetch_history())


async def finished_tasks(handle: WorkflowHandle[Any, Any]) -> list[int]:
    """The events that completed its workflow tasks: a reset to one of them continues the workflow from there."""
    completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    return [event.event_id for event in await events_of(handle) if event.event_type == completed]


async def reset(client: Client, handle: WorkflowHandle[Any, Any], task: int) -> Handle:
    """Reset a workflow like an operator, to the workflow task that completed with event `task`; returns the new run."""
    run_id = (await handle.describe()).run_id
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=run_id),
            reason="the test",
            workflow_task_finish_event_id=task,
            request_id=str(uuid.uuid4()),
        )
    )
    assert answer.run_id != run_id
    return client.get_workflow_handle_for(Orders.run, handle.id, run_id=answer.run_id)


@asynccontextmanager
async def batcher(
    client: Client, name: str, redis: Redis, redis_server: "AnyRedis", sink: MemorySink
) -> AsyncIterator[str]:
    """A batcher worker; yields its task queue. Nothing is drained until `start_draining`, but callers can settle."""
    queue = QueueRef(namespace=client.namespace, name=name)
    contract = contract_of(sink, max_wait=LIMITS.max_wait)
    await announce(redis, queue, contract)
    drains = DrainActivities(
        queue=queue, redis_url=redis_server.url, redis=redis, sink=sink, limits=LIMITS, contract=lambda: contract
    )
    async with Worker(
        client,
        task_queue=f"{name}-batcher",
        workflows=[BatcherWorkflow],
        activities=[drains.drain, SettleActivities(queue, sink, lambda: contract).settle_write],
        workflow_runner=UnsandboxedWorkflowRunner(),
        graceful_shutdown_timeout=timedelta(seconds=10),
    ):
        yield f"{name}-batcher"
        drains.stop()


async def announce(redis: Redis, queue: QueueRef, contract: Contract) -> None:
    """Announce the contract of a queue, as its batcher does."""
    terms = {field.name: getattr(contract, field.name) for field in fields(Terms)}
    await ContractStore(redis, queue).announce("batcher", Terms(**terms))


async def start_draining(client: Client, name: str) -> None:
    partition = PartitionRef(queue=name, partition=0)
    await client.start_workflow(
        BatcherWorkflow.run,
        BatcherInput(partition=partition),
        id=batcher_workflow_id(partition),
        task_queue=f"{name}-batcher",
    )


@dataclass
class Stack:
    """A queue, the order that its callers submit, and a real drain that runs once it is told to."""

    client: Client
    redis: Redis
    name: str
    sink: MemorySink
    order: Order

    @property
    def ref(self) -> QueueRef:
        return QueueRef(namespace=self.client.namespace, name=self.name)

    @property
    def queue(self) -> WriteQueue:
        return WriteQueue(self.redis, self.ref, 0)

    @property
    def enqueue(self) -> EnqueueActivities:
        return EnqueueActivities(self.redis)

    @property
    def letters(self) -> DeadLetters:
        return DeadLetters(self.redis, self.ref, 0)

    def caller(self, *, cached: int = 1000) -> AbstractAsyncContextManager[None]:
        return caller(self.client, self.name, self.enqueue.enqueue_write, cached=cached)

    async def start(self, **changes: Any) -> Handle:
        """Start a caller with the order and these changes."""
        return await start(self.client, self.name, replace(self.order, **changes))

    async def drain(self) -> None:
        await start_draining(self.client, self.name)

    async def holds(self, entries: int) -> bool:
        return (await self.queue.statistics()).backlog == entries

    async def has_dead_letter(self) -> bool:
        return (await self.queue.statistics()).dead == 1


@asynccontextmanager
async def stacked(client: Client, name: str, redis: Redis, redis_server: "AnyRedis") -> AsyncIterator[Stack]:
    sink = MemorySink()
    async with batcher(client, name, redis, redis_server, sink) as task_queue:
        order = Order(queues=(name,), batcher_task_queue=task_queue)
        yield Stack(client, redis, name, sink, order)
