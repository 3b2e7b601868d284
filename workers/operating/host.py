"""What the batcher workflow of a partition and its drain are doing, as far as describing it tells.

Not by the query of BatcherWorkflow: a query is billable, and only a worker that is alive can answer it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.errors import OperationFailed
from write_batcher.models import DrainProgress, PartitionRef
from write_batcher.workflows.batcher import BatcherInput, batcher_workflow_id

RPC_TIMEOUT = timedelta(seconds=10)

T = TypeVar("T")


class HostState(StrEnum):
    """What the batcher workflow of a partition does, as far as describing it tells."""

    RUNNING = "running"
    """An attempt of its drain has been started."""
    WAITING = "waiting"
    """For a batcher worker, or for the next attempt after one that failed."""
    HELD = "held"
    """Somebody has paused the activity itself, with Temporal's own command."""
    STOPPING = "stopping"
    """Its drain has been told to return: for a pause, or for good."""
    PAUSED = "paused"
    NOT_RUNNING = "not running"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """The batcher workflow of one partition and its drain.

    `drains` have returned before this run of the workflow. `attempt` and what follows is of the drain that is pending,
    if any; `progress` is as old as its last heartbeat that reached the server, at most some 10 s. `last_failure` is
    that of the attempt before this one.
    """

    state: HostState
    closed_as: str | None = None
    drains: int | None = None
    attempt: int | None = None
    progress: DrainProgress | None = None
    last_failure: str | None = None


def view_host(
    description: DescribeWorkflowExecutionResponse | None,
    progress: DrainProgress | None = None,
    drains: int | None = None,
) -> HostView:
    """What a description means; None: there is no such workflow. `progress` and `drains` are decoded from it."""
    if description is None:
        return HostView(state=HostState.NOT_RUNNING)
    status = WorkflowExecutionStatus(description.workflow_execution_info.status)
    if status is not WorkflowExecutionStatus.RUNNING:
        closed_as = status.name.lower().replace("_", " ")
        return HostView(state=HostState.NOT_RUNNING, closed_as=closed_as, drains=drains)
    drain = _pending_drain(description)
    if drain is None:
        # Between two drains there is always a workflow task, which starts the next one: without one it is paused.
        waiting = description.HasField("pending_workflow_task")
        return HostView(state=HostState.WAITING if waiting else HostState.PAUSED, drains=drains)
    return HostView(
        state=_state(drain),
        drains=drains,
        attempt=drain.attempt,
        progress=progress,
        last_failure=_innermost(drain.last_failure) if drain.HasField("last_failure") else None,
    )


def _pending_drain(description: DescribeWorkflowExecutionResponse) -> PendingActivityInfo | None:
    """The drain among the pending activities; beside it may be a flush."""
    return next((one for one in description.pending_activities if one.activity_type.name == "drain"), None)


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
            return HostState.HELD
        case _:
            return HostState.WAITING


def _innermost(failure: Failure) -> str:
    """The message of the cause that started it all: what an operator can act on."""
    while failure.HasField("cause"):
        failure = failure.cause
    return failure.message


class Hosts:
    """Looks at batcher workflows. Methods raise OperationFailed when Temporal does not answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._drains: dict[str, int | None] = {}  # by run id: the input of a run never changes

    async def look(self, partition: PartitionRef) -> HostView:
        """The latest run of the batcher workflow of a partition."""
        workflow = self._client.get_workflow_handle(batcher_workflow_id(partition))
        try:
            description = await workflow.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return view_host(None)
            raise temporal_failed(error) from error
        if description.run_id not in self._drains:
            self._drains[description.run_id] = await self._drains_before(description)
        drain = _pending_drain(description.raw_description)
        details = drain.heartbeat_details.payloads if drain else []
        progress = await _decoded(self._client.data_converter, details, DrainProgress)
        return view_host(description.raw_description, progress, self._drains[description.run_id])

    async def _drains_before(self, description: WorkflowExecutionDescription) -> int | None:
        """How many drains had returned when this run began: its input tells, in the first event of its history."""
        run = self._client.get_workflow_handle(description.id, run_id=description.run_id)
        try:
            first = await anext(aiter(run.fetch_history_events(page_size=1, rpc_timeout=RPC_TIMEOUT)))
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:  # deleted meanwhile
                return None
            raise temporal_failed(error) from error
        started = first.workflow_execution_started_event_attributes.input.payloads
        batcher = await _decoded(self._client.data_converter, started, BatcherInput)
        return batcher.drains if batcher else None


def temporal_failed(error: RPCError) -> OperationFailed:
    """What to tell an operator when Temporal does not answer."""
    return OperationFailed(f"Temporal cannot be asked: {error}; look at the server, or at TEMPORAL_ADDRESS")


async def _decoded(converter: DataConverter, payloads: Sequence[Payload], kind: type[T]) -> T | None:
    """None when there is nothing, or nothing that can be read here: a worker may have a converter of its own."""
    if not payloads:
        return None
    try:
        [value] = await converter.decode(payloads, [kind])
    except Exception:  # noqa: BLE001 - a foreign converter raises what it likes
        return None
    return value if isinstance(value, kind) else None
