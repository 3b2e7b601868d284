"""What operators are shown: the state of a queue from its statistics and descriptions, ids of dead letters."""

from dataclasses import replace

import pytest
from temporalio.api.common.v1 import ActivityType
from temporalio.api.enums.v1 import PendingActivityState as Pending, WorkflowExecutionStatus as Status
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo, PendingWorkflowTaskInfo, WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from write_batcher.cli.queue_view import age
from write_batcher.errors import ConfigurationError
from write_batcher.models import DrainProgress, PartitionRef
from write_batcher.queue.contract import Contract
from write_batcher.queue.latencies import Latency
from write_batcher.queue.marks import HeldMark
from write_batcher.queue.stream import PartitionStatistics
from write_batcher.workers.operating.dead_letter_selection import Selection
from write_batcher.workers.operating.host import HostState, HostView, view_host
from write_batcher.workers.operating.monitor import PartitionView, view_partition
from write_batcher.workers.operating.stream_ids import EntryId, LetterId
from write_batcher.workflows.batcher import BatcherInput

PARTITION = PartitionRef(queue="orders", partition=3)
IDLE = PartitionStatistics(backlog=0, pending=0, held=0, dead=0, oldest_ms=0, counters={})
RUNNING = HostView(state=HostState.RUNNING, attempt=1)
CONTRACT = Contract(
    sink_id="a",
    partitions=4,
    tables={},
    max_wait_ms=20_000,
    max_items=100,
    max_request_bytes=10_000,
    max_backlog=1_000,
)
HELD = {
    "2-0": HeldMark(request_id="b", reason="the key server is away", since_ms=2_000),
    "3-0": HeldMark(request_id="a", reason="the row is locked", since_ms=1_000),
}


def seen(
    statistics: PartitionStatistics,
    host: HostView = RUNNING,
    *,
    contract: Contract | None = CONTRACT,
    held: dict[str, HeldMark] | None = None,
) -> PartitionView:
    statistics = replace(statistics, held=len(held or {}))
    return view_partition(PARTITION, statistics, host, contract=contract, held=held or {})


def described(
    *activities: PendingActivityInfo, status: Status.ValueType = Status.WORKFLOW_EXECUTION_STATUS_RUNNING
) -> DescribeWorkflowExecutionResponse:
    return DescribeWorkflowExecutionResponse(
        workflow_execution_info=WorkflowExecutionInfo(status=status), pending_activities=activities
    )


def pending(state: Pending.ValueType, *, name: str = "drain", attempt: int = 1) -> PendingActivityInfo:
    return PendingActivityInfo(activity_type=ActivityType(name=name), state=state, attempt=attempt, activity_id="7")


def test_averages_are_of_all_batches() -> None:
    view = seen(replace(IDLE, counters={"batches_size": 2, "batches_wait": 2, "batched": 260, "write_below_16_ms": 4}))
    assert (view.fill, view.write) == (0.65, Latency(p50_ms=16, p95_ms=16, p99_ms=16))
    assert view.batches == {"size": 2, "bytes": 0, "wait": 2, "idle": 0, "flush": 0, "stop": 0, "retry": 0}


def test_averages_of_no_batches_are_unknown() -> None:
    assert (seen(IDLE).fill, seen(IDLE).write) == (None, None)


def test_queue_is_stuck_when_a_request_waits_three_times_max_wait() -> None:
    assert seen(replace(IDLE, backlog=1, oldest_ms=60_000)).warning is None
    warning = seen(replace(IDLE, backlog=1, oldest_ms=60_001)).warning
    assert warning is not None
    assert warning.startswith("orders/3: the oldest request has waited 60s, more than 3 times max_wait (20s): ")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (HostView(state=HostState.NOT_RUNNING), "`write-batcher worker batcher --queue orders`"),
        (HostView(state=HostState.PAUSED), "`write-batcher queue resume --queue orders`"),
        (HostView(state=HostState.PAUSED_IN_TEMPORAL, attempt=1), "`write-batcher queue resume --queue orders`"),
        (HostView(state=HostState.STOPPING, attempt=1), "told to return"),
        (HostView(state=HostState.WAITING, attempt=1), "no batcher worker takes it"),
        (
            HostView(state=HostState.WAITING, attempt=4, last_failure="no table"),
            "failed 3 times, last with: no table",
        ),
        (
            replace(RUNNING, progress=DrainProgress(holding="database is locked")),
            "nothing is written: database is locked",
        ),
        (RUNNING, "is behind"),
    ],
)
def test_warning_says_why_a_queue_is_stuck(host: HostView, reason: str) -> None:
    assert reason in (seen(replace(IDLE, backlog=1, oldest_ms=90_000), host).warning or "")


def test_held_requests_are_warned_of_with_the_reason_of_the_first() -> None:
    held = "2 requests are held; see `write-batcher queue list --held --queue orders`; the first: the row is locked"
    recent = seen(replace(IDLE, backlog=2, oldest_ms=1_000), held=HELD)
    assert (recent.held, recent.warning) == (2, f"orders/3: {held}")
    assert (seen(replace(IDLE, backlog=2, oldest_ms=90_000), held=HELD).warning or "").endswith(f"(20s): {held}")


def test_queue_that_lost_its_contract_is_shown_with_the_cure() -> None:
    view = seen(replace(IDLE, backlog=7, counters={"batches_size": 1, "batched": 5}), contract=None)
    assert (view.backlog, view.fill) == (7, None)
    assert "the queue has no contract" in (view.warning or "")
    assert "`write-batcher worker batcher --queue orders`" in (view.warning or "")


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (Pending.PENDING_ACTIVITY_STATE_STARTED, HostState.RUNNING),
        (Pending.PENDING_ACTIVITY_STATE_SCHEDULED, HostState.WAITING),
        (Pending.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED, HostState.STOPPING),
        (Pending.PENDING_ACTIVITY_STATE_PAUSED, HostState.PAUSED_IN_TEMPORAL),
        (Pending.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED, HostState.PAUSED_IN_TEMPORAL),
    ],
)
def test_host_state_is_that_of_its_drain(state: Pending.ValueType, wanted: HostState) -> None:
    flush = pending(Pending.PENDING_ACTIVITY_STATE_STARTED, name="flush")
    progress = DrainProgress(in_flight=7)
    batcher = BatcherInput(partition=PARTITION, drains=5, sink_id="a")
    assert view_host(described(flush, pending(state, attempt=2)), progress, batcher) == HostView(
        state=wanted, drains=5, sink_id="a", drain_id="7", attempt=2, progress=progress
    )


def test_host_without_a_drain_is_paused_unless_a_workflow_task_is_pending() -> None:
    description = described(pending(Pending.PENDING_ACTIVITY_STATE_STARTED, name="flush"))
    assert view_host(description).state is HostState.PAUSED
    description.pending_workflow_task.CopyFrom(PendingWorkflowTaskInfo(attempt=1))
    assert view_host(description).state is HostState.WAITING


def test_host_that_has_ended_shows_how() -> None:
    assert view_host(None) == HostView(state=HostState.NOT_RUNNING)
    closed = view_host(described(status=Status.WORKFLOW_EXECUTION_STATUS_TERMINATED))
    assert closed == HostView(state=HostState.NOT_RUNNING, closed_as="terminated")


def test_host_shows_the_root_cause_of_a_failure() -> None:
    drain = pending(Pending.PENDING_ACTIVITY_STATE_SCHEDULED, attempt=2)
    drain.last_failure.CopyFrom(Failure(message="drain failed", cause=Failure(message="permission denied")))
    assert view_host(described(drain)).last_failure == "permission denied"


def test_age_has_one_unit() -> None:
    assert [age(seconds) for seconds in (-1, 0.25, 59.9, 60, 7_200, 200_000)] == [
        "0ms",
        "250ms",
        "59s",
        "1m",
        "2h",
        "2d",
    ]


def test_ids_of_requests_and_letters_are_told_apart_in_errors() -> None:
    with pytest.raises(
        ConfigurationError, match=r"does not name a queued request: .* `write-batcher queue list` shows"
    ):
        EntryId.parse("5-0")
    with pytest.raises(ConfigurationError, match=r"a dead letter: .* `write-batcher dead-letters list` shows"):
        LetterId.parse("5-0")


def test_letter_ids_are_ordered_as_redis_orders_them() -> None:
    assert LetterId.parse("0/9-10") > LetterId.parse("0/9-9") > LetterId.parse(" 0/8-99 ")
    assert str(LetterId.parse("2/1735689600000-0")) == "2/1735689600000-0"


@pytest.mark.parametrize(
    "text", ["", "5", "5-0", "0/5", "0/5-", "a/5-0", "0/5-0/1", "0/99999999999999999999-0", "٣/5-0"]
)
def test_malformed_letter_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"0/1735689600000-0"):
        LetterId.parse(text)


@pytest.mark.parametrize(
    ("letter_id", "reason", "everything"),
    [(None, None, False), ("0/5-0", "x", False), ("0/5-0", None, True), (None, "x", True), (None, "", False)],
)
def test_selection_is_exactly_one_of_three(letter_id: str | None, reason: str | None, everything: bool) -> None:
    with pytest.raises(ConfigurationError, match=r"--all"):
        Selection.parse(letter_id, reason, everything)
