"""One partition with the workflow that hosts its drain, and what an operator does to it and sees of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker

from write_batcher.models import DrainEnd, PartitionRef, WriteRequest
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.wire_form import Codec
from write_batcher.workers.plugin import with_passthrough
from write_batcher.workflows.batcher import (
    BatcherInput,
    BatcherState,
    BatcherStatus,
    BatcherWorkflow,
    batcher_workflow_id,
)

QUICK = timedelta(milliseconds=100)

Handle = WorkflowHandle[BatcherWorkflow, DrainEnd]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedPartition:
    """One partition, whose batcher workflow a test starts."""

    client: Client
    queue: WriteQueue
    ref: PartitionRef

    async def start(self, *, first_signal: str | None = None) -> Handle:
        return await self.client.start_workflow(
            BatcherWorkflow.run,
            BatcherInput(partition=self.ref),
            id=batcher_workflow_id(self.ref),
            task_queue=self.ref.queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal=first_signal,
        )

    async def append(self, *items: str) -> None:
        codec = Codec(self.client.data_converter)
        for item in items:
            request = WriteRequest(request_id=item, table="orders", record={"item": item})
            await self.queue.append(await codec.encode(request), max_backlog=10_000)

    async def is_empty(self) -> bool:
        return (await self.queue.statistics()).backlog == 0

    async def has_pending(self, entries: int) -> bool:
        return (await self.queue.statistics()).pending == entries


def host_worker(client: Client, name: str, *activities: Callable[..., Any]) -> Worker:
    """A worker of the batcher workflow, with these activities, on the task queue `name`."""
    return Worker(
        client,
        task_queue=name,
        workflows=[BatcherWorkflow],
        activities=activities,
        workflow_runner=with_passthrough(None),
        graceful_shutdown_timeout=timedelta(seconds=10),
        max_heartbeat_throttle_interval=QUICK,
    )


async def has_state(handle: Handle, state: BatcherState, *, drains: int | None = None) -> bool:
    status: BatcherStatus = await handle.query(BatcherWorkflow.status)
    return status.state is state and drains in (None, status.drains)


async def has_drained(handle: Handle, times: int) -> bool:
    return (await handle.query(BatcherWorkflow.status)).drains >= times


async def has_status(handle: Handle, status: WorkflowExecutionStatus) -> bool:
    return (await handle.describe()).status is status


async def runs(handle: Handle, *activities: str) -> bool:
    """Whether exactly these activities are running."""
    pending = (await handle.describe()).raw_description.pending_activities
    started = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    return sorted(one.activity_type.name for one in pending if one.state == started) == sorted(activities)


async def drain_is_paused(handle: Handle) -> bool:
    """Whether the drain activity is paused and its running attempt has ended."""
    [pending] = (await handle.describe()).raw_description.pending_activities
    return pending.paused and pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED
