"""The state of a batcher workflow and of its drain, from Temporal's description of the workflow.

BatcherWorkflow is not queried: a query is billable, and is answered only while a worker is alive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse, UnpauseActivityRequest
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.errors import OperationFailed
from write_batcher.models import DrainProgress, PartitionRef
from write_batcher.workflows.batcher import (
    STATE_MEMO,
    BatcherInput,
    BatcherState,
    BatcherWorkflow,
    batcher_workflow_id,
)

RPC_TIMEOUT = timedelta(seconds=10)

T = TypeVar("T")


class HostState(StrEnum):
    """The state of a batcher workflow."""

    RUNNING = "running"
    """An attempt of its drain is running."""
    WAITING = "waiting"
    """Its drain waits for a batcher worker, or for the next attempt after one that failed."""
    PAUSED_IN_TEMPORAL = "paused in Temporal"
    """Its drain activity is paused, with Temporal's own command."""
    STOPPING = "stopping"
    """Its drain has been told to return, for a pause or a stop, and has not returned yet."""
    PARKED = "parked"
    """Its drain has returned because there was nothing to do; a batcher worker wakes it when there is."""
    PAUSED = "paused"
    """Its drain has returned, and is started again by a resume."""
    NOT_RUNNING = "not running"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """The batcher workflow of one partition and its pending drain, if any."""

    state: HostState
    closed_as: str | None = None
    """How the workflow ended, for example "terminated"; None while it runs, and when there is none."""
    drains: int | None = None
    """Drains that had returned before this run of the workflow; None when that cannot be read."""
    sink_id: str | None = None
    """The sink that its drains may write to; None when that cannot be read."""
    drain_id: str | None = None
    """Activity id of the pending drain."""
    attempt: int | None = None
    """Attempt of the pending drain, from 1."""
    progress: DrainProgress | None = None
    """As of the last heartbeat that reached the server, at most a heartbeat timeout ago."""
    last_failure: str | None = None
    """Message of the attempt before this one."""


def view_host(
    description: DescribeWorkflowExecutionResponse | None,
    progress: DrainProgress | None = None,
    batcher: BatcherInput | None = None,
    state: str | None = None,
) -> HostView:
    """Interpret a description, None when there is no such workflow; the others are decoded from it. `state` is the
    latest in which the workflow had no drain.
    """
    if description is None:
        return HostView(state=HostState.NOT_RUNNING)
    drains, sink_id = (batcher.drains, batcher.sink_id) if batcher else (None, None)
    status = WorkflowExecutionStatus(description.workflow_execution_info.status)
    if status is not WorkflowExecutionStatus.RUNNING:
        closed_as = status.name.lower().replace("_", " ")
        return HostView(state=HostState.NOT_RUNNING, closed_as=closed_as, drains=drains, sink_id=sink_id)
    drain = _pending_drain(description)
    if drain is None:
        # Between two drains a workflow task is always pending, which starts the next one: without it, it rests.
        resting = HostState.PARKED if state == BatcherState.PARKED else HostState.PAUSED
        waiting = description.HasField("pending_workflow_task")
        return HostView(state=HostState.WAITING if waiting else resting, drains=drains, sink_id=sink_id)
    return HostView(
        state=_state(drain),
        drains=drains,
        sink_id=sink_id,
        drain_id=drain.activity_id,
        attempt=drain.attempt,
        progress=progress,
        last_failure=_root_message(drain.last_failure) if drain.HasField("last_failure") else None,
    )


def _pending_drain(description: DescribeWorkflowExecutionResponse) -> PendingActivityInfo | None:
    """The drain among the pending activities; there may be a flush as well."""
    pending = description.pending_activities
    return next((activity for activity in pending if activity.activity_type.name == "drain"), None)


def _state(drain: PendingActivityInfo) -> HostState:
    match drain.state:
        case PendingActivityState.PENDING_ACTIVITY_STATE_STARTED:
            return HostState.RUNNING
        case PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED:
            return HostState.STOPPING
        case (
            PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED
            | PendingActivityState.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
        ):
            return HostState.PAUSED_IN_TEMPORAL
        case _:
            return HostState.WAITING


def _root_message(failure: Failure) -> str:
    """The message of the root cause: what an operator can act on."""
    while failure.HasField("cause"):
        failure = failure.cause
    return failure.message


class Hosts:
    """Looks at batcher workflows. Methods raise `OperationFailed` when Temporal does not answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inputs: dict[str, BatcherInput | None] = {}  # by run id: a run keeps its input

    async def look(self, partition: PartitionRef) -> HostView:
        """Describe the latest run of the batcher workflow of a partition."""
        workflow = self._client.get_workflow_handle(batcher_workflow_id(partition))
        try:
            description = await workflow.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return view_host(None)
            raise temporal_failure(error) from error
        if description.run_id not in self._inputs:
            self._inputs[description.run_id] = await self._input_of(description)
        drain = _pending_drain(description.raw_description)
        details = drain.heartbeat_details.payloads if drain else []
        converter = self._client.data_converter
        progress = await _decoded(converter, details, DrainProgress)
        memo = description.raw_description.workflow_execution_info.memo.fields
        state = await _decoded(converter, [memo[STATE_MEMO]] if STATE_MEMO in memo else [], str)
        return view_host(description.raw_description, progress, self._inputs[description.run_id], state)

    async def unpause_drain(self, partition: PartitionRef, host: HostView) -> None:
        """Undo Temporal's own pause of the drain that `host` shows; nothing happens when it has ended meanwhile."""
        workflow_id = batcher_workflow_id(partition)
        request = UnpauseActivityRequest(
            namespace=self._client.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id),
            identity=self._client.identity,
            id=host.drain_id or "",
        )
        try:
            await self._client.workflow_service.unpause_activity(request, timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return
            raise OperationFailed(
                f"The drain of partition {partition} is paused in Temporal, and Temporal refuses to unpause it "
                f"({str(error).rstrip('.')}): run `temporal activity unpause --workflow-id {workflow_id} "
                f"--activity-id {host.drain_id}` with the rights for it."
            ) from error

    async def wake(self, partition: PartitionRef) -> None:
        """Have a drain started that is parked."""
        try:
            workflow = self._client.get_workflow_handle(batcher_workflow_id(partition))
            await workflow.signal(BatcherWorkflow.wake, rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise temporal_failure(error) from error

    async def end(self, partition: PartitionRef, reason: str) -> None:
        """Terminate the batcher workflow of a partition, if it runs."""
        try:
            await self._client.get_workflow_handle(batcher_workflow_id(partition)).terminate(
                reason=reason, rpc_timeout=RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise temporal_failure(error) from error

    async def _input_of(self, description: WorkflowExecutionDescription) -> BatcherInput | None:
        """What this run began with, from the first event of its history."""
        run = self._client.get_workflow_handle(description.id, run_id=description.run_id)
        try:
            first = await anext(aiter(run.fetch_history_events(page_size=1, rpc_timeout=RPC_TIMEOUT)))
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:  # deleted in the meantime
                return None
            raise temporal_failure(error) from error
        started = first.workflow_execution_started_event_attributes.input.payloads
        return await _decoded(self._client.data_converter, started, BatcherInput)


def temporal_failure(error: RPCError) -> OperationFailed:
    """Build the error that tells an operator that Temporal does not answer."""
    return OperationFailed(f"Temporal does not answer ({error}): check the server, or TEMPORAL_ADDRESS.")


async def _decoded(converter: DataConverter, payloads: Sequence[Payload], kind: type[T]) -> T | None:
    """None when there is no value, or when this process cannot decode it: a worker may have another converter."""
    if not payloads:
        return None
    try:
        [value] = await converter.decode(payloads, [kind])
    except Exception:  # noqa: BLE001 - a custom converter raises what it likes
        return None
    return value if isinstance(value, kind) else None
