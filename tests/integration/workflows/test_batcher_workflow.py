"""BatcherWorkflow with the real drain: what operators can do to it, and that its history stays bounded for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import PauseActivityRequest, UnpauseActivityRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from tests.support.fakes import MemorySink, contract_of
from tests.support.hosted_partition import (
    QUICK,
    HostedPartition,
    drain_is_paused,
    has_drained,
    has_state,
    has_status,
    host_worker,
    runs,
)
from tests.support.order_callers import LIMITS
from tests.support.redis_kinds import AnyRedis, tell_all
from tests.support.waiting import eventually
from write_batcher.activities.drain import loop as loop_module, read, watch
from write_batcher.activities.drain.activity import DrainActivities
from write_batcher.models import DrainEnd, DrainInput, DrainProgress, DrainResult, FlushReason, PartitionRef, QueueRef
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue
from write_batcher.workflows import batcher as batcher_module
from write_batcher.workflows.batcher import BatcherInput, BatcherState, BatcherWorkflow, batcher_workflow_id

SHORT_WAIT = timedelta(milliseconds=50)
LONG_WAIT = timedelta(minutes=5)


@pytest.fixture(autouse=True)
def _quick_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation reaches the drain with a heartbeat, and the drain notices it when its read returns."""
    monkeypatch.setattr(read, "LONGEST_BLOCK", QUICK)
    monkeypatch.setattr(watch, "BEAT_EVERY", QUICK)


@pytest.fixture
def partition(client: Client, redis: Redis, name: str) -> HostedPartition:
    return partition_of(client, redis, name)


def partition_of(client: Client, redis: Redis, name: str) -> HostedPartition:
    queue = WriteQueue(redis, QueueRef(namespace=client.namespace, name=name), 0)
    return HostedPartition(client=client, queue=queue, ref=PartitionRef(queue=name, partition=0))


def drains_of(
    client: Client, redis: Redis, server: AnyRedis, name: str, sink: MemorySink, *, max_wait: timedelta
) -> DrainActivities:
    contract = contract_of(sink)
    return DrainActivities(
        queue=QueueRef(namespace=client.namespace, name=name),
        redis_url=server.url,
        redis=redis,
        sink=sink,
        limits=replace(LIMITS, max_items=100, max_bytes=1_000_000, max_wait=max_wait),
        contract=lambda: contract,
    )


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


Batcher = Callable[..., Any]


@pytest.fixture
def batcher(client: Client, redis: Redis, redis_server: AnyRedis, name: str, sink: MemorySink) -> Batcher:
    """`async with batcher(max_wait=...)` runs a worker whose drain writes to `sink`."""

    @asynccontextmanager
    async def run(max_wait: timedelta = SHORT_WAIT) -> AsyncIterator[None]:
        drains = drains_of(client, redis, redis_server, name, sink, max_wait=max_wait)
        async with host_worker(client, name, drains.drain, drains.flush):
            yield

    return run


async def never(check: Callable[[], Awaitable[bool]], *, for_s: float = 0.5) -> None:
    """Check that nothing happens, which only time can show: here many times `max_wait`."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        assert not await check()
        await asyncio.sleep(0.02)


async def test_batcher_writes_what_is_appended_and_acknowledges_it(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher():
        await partition.start()
        await partition.append("a", "b", "c")
        await eventually(partition.is_empty)
    assert [row.request_id for row in sink.rows] == ["a", "b", "c"]


async def test_batcher_that_is_paused_leaves_entries_in_the_stream(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher():
        handle = await partition.start()
        await eventually(lambda: runs(handle, "drain"))
        await handle.signal(BatcherWorkflow.pause)
        await eventually(lambda: has_state(handle, BatcherState.PAUSED, drains=1))
        await partition.append("a")
        await never(partition.is_empty)
    assert sink.batches == []
    assert (await partition.queue.statistics()).backlog == 1


async def test_batcher_that_is_resumed_writes_what_was_waiting(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher():
        handle = await partition.start(first_signal="pause")
        await eventually(lambda: has_state(handle, BatcherState.PAUSED))
        await partition.append("a")
        await handle.signal(BatcherWorkflow.resume)
        await eventually(partition.is_empty)
    assert [row.request_id for row in sink.rows] == ["a"]


async def test_batcher_finishes_the_open_batch_before_it_pauses(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher(max_wait=LONG_WAIT):
        handle = await partition.start()
        await partition.append("a", "b")
        await eventually(lambda: partition.has_pending(2))
        await handle.signal(BatcherWorkflow.pause)
        await eventually(lambda: has_state(handle, BatcherState.PAUSED, drains=1))
    assert [batch.flush_reason for batch in sink.batches] == [FlushReason.STOP]
    assert await partition.is_empty()


async def test_batcher_flushes_the_open_batch_before_max_wait(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher(max_wait=LONG_WAIT):
        handle = await partition.start()
        await partition.append("a", "b")
        await handle.signal(BatcherWorkflow.flush)
        await eventually(partition.is_empty)
        await partition.append("c")
        await eventually(lambda: partition.has_pending(1))
        assert [(len(batch.requests), batch.flush_reason) for batch in sink.batches] == [(2, FlushReason.FLUSH)]


async def test_batcher_that_is_stopped_completes(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher(max_wait=LONG_WAIT):
        handle = await partition.start()
        await partition.append("a")
        await eventually(lambda: partition.has_pending(1))
        await handle.signal(BatcherWorkflow.stop)
        await eventually(lambda: has_status(handle, WorkflowExecutionStatus.COMPLETED))
    assert [row.request_id for row in sink.rows] == ["a"]


async def test_batcher_that_is_paused_can_be_stopped(batcher: Batcher, partition: HostedPartition) -> None:
    async with batcher():
        handle = await partition.start(first_signal="pause")
        await handle.signal(BatcherWorkflow.stop)
        await eventually(lambda: has_status(handle, WorkflowExecutionStatus.COMPLETED))


async def test_batcher_that_is_cancelled_ends_after_what_is_in_flight(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher(max_wait=LONG_WAIT):
        handle = await partition.start()
        await partition.append("a")
        await eventually(lambda: partition.has_pending(1))
        await handle.cancel()
        await eventually(lambda: has_status(handle, WorkflowExecutionStatus.CANCELED), within_s=5)
    assert [row.request_id for row in sink.rows] == ["a"]


async def test_batcher_that_is_cancelled_between_two_attempts_ends(client: Client, partition: HostedPartition) -> None:
    failed = asyncio.Event()

    @activity.defn
    async def drain(_input: DrainInput) -> DrainResult:
        failed.set()
        raise OSError("the database driver is broken")

    async with host_worker(client, partition.ref.queue, drain):
        handle = await partition.start()
        async with asyncio.timeout(10):
            await failed.wait()
        await handle.cancel()
        await eventually(lambda: has_status(handle, WorkflowExecutionStatus.CANCELED), within_s=5)


async def test_batcher_that_was_terminated_goes_on_when_restarted(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher(max_wait=timedelta(seconds=1)):
        first = await partition.start()
        await partition.append("a")
        await eventually(lambda: partition.has_pending(1))
        await first.terminate()
        second = await partition.start()
        await partition.append("b")
        await eventually(partition.is_empty)
    assert first.result_run_id != second.result_run_id
    assert sorted(row.request_id for row in sink.rows) == ["a", "b"]


async def test_batcher_started_ten_times_at_once_runs_once(batcher: Batcher, partition: HostedPartition) -> None:
    async with batcher():
        handles = await asyncio.gather(*(partition.start() for _ in range(10)))
    assert len({handle.result_run_id for handle in handles}) == 1


async def test_batcher_tells_every_drain_which_sink_it_was_started_for(
    client: Client, partition: HostedPartition
) -> None:
    inputs: list[DrainInput] = []

    @activity.defn
    async def drain(drain_input: DrainInput) -> DrainResult:
        inputs.append(drain_input)
        end = DrainEnd.EXPIRED if len(inputs) < 3 else DrainEnd.RETIRED
        return DrainResult(end=end, progress=DrainProgress())

    async with host_worker(client, partition.ref.queue, drain):
        handle = await client.start_workflow(
            BatcherWorkflow.run,
            BatcherInput(partition=partition.ref, sink_id="sink-7"),
            id=batcher_workflow_id(partition.ref),
            task_queue=partition.ref.queue,
        )
        async with asyncio.timeout(20):
            await handle.result()
    assert inputs == [DrainInput(partition=partition.ref, sink_id="sink-7", heartbeat_timeout_ms=5_000)] * 3


@dataclass(slots=True)
class NotedDrain:
    """A drain whose worker has a heartbeat timeout of 3 s; its third run retires the partition."""

    inputs: list[DrainInput] = field(default_factory=list)
    timeouts: list[timedelta | None] = field(default_factory=list)

    @activity.defn
    async def drain(self, drain_input: DrainInput) -> DrainResult:
        self.inputs.append(drain_input)
        self.timeouts.append(activity.info().heartbeat_timeout)
        if drain_input.heartbeat_timeout_ms not in (None, 3_000):
            return DrainResult(end=DrainEnd.RECONFIGURED, progress=DrainProgress(), heartbeat_timeout_ms=3_000)
        end = DrainEnd.EXPIRED if len(self.inputs) < 3 else DrainEnd.RETIRED
        return DrainResult(end=end, progress=DrainProgress())


@pytest.mark.parametrize(
    ("started_with_ms", "told_ms", "timeouts_s"),
    [
        (3_000, [3_000, 3_000, 3_000], [3, 3, 3]),
        # Right after a drain that returned for another heartbeat timeout, the next one must not do so.
        (10_000, [10_000, None, 3_000], [10, 3, 3]),
    ],
)
async def test_batcher_gives_every_drain_the_heartbeat_timeout_of_its_worker(
    client: Client,
    partition: HostedPartition,
    started_with_ms: int,
    told_ms: list[int | None],
    timeouts_s: list[int],
) -> None:
    noted = NotedDrain()
    async with host_worker(client, partition.ref.queue, noted.drain):
        handle = await client.start_workflow(
            BatcherWorkflow.run,
            BatcherInput(partition=partition.ref, heartbeat_timeout_ms=started_with_ms),
            id=batcher_workflow_id(partition.ref),
            task_queue=partition.ref.queue,
        )
        async with asyncio.timeout(20):
            await handle.result()
    assert [one.heartbeat_timeout_ms for one in noted.inputs] == told_ms
    assert noted.timeouts == [timedelta(seconds=seconds) for seconds in timeouts_s]


async def test_drain_whose_worker_has_another_sink_does_not_decide_on_the_heartbeat_timeout(
    client: Client, redis: Redis, redis_server: AnyRedis, name: str, sink: MemorySink
) -> None:
    drains = drains_of(client, redis, redis_server, name, sink, max_wait=SHORT_WAIT)
    asked = DrainInput(partition=PartitionRef(queue=name, partition=0), sink_id="sink-7", heartbeat_timeout_ms=3_000)
    with pytest.raises(ApplicationError) as refused:
        await ActivityEnvironment(client=client).run(drains.drain, asked)
    assert refused.value.type == "WrongSink"


async def test_drain_whose_worker_is_stopping_does_not_decide_on_the_heartbeat_timeout(
    client: Client, redis: Redis, redis_server: AnyRedis, name: str, sink: MemorySink
) -> None:
    drains = drains_of(client, redis, redis_server, name, sink, max_wait=SHORT_WAIT)
    drains.stop()
    asked = DrainInput(partition=PartitionRef(queue=name, partition=0), heartbeat_timeout_ms=3_000)
    result = await ActivityEnvironment(client=client).run(drains.drain, asked)
    assert (result.end, result.heartbeat_timeout_ms) == (DrainEnd.STOPPED, None)


async def test_batcher_continues_as_new_when_its_drain_expires(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "DRAIN_FOR", timedelta(milliseconds=200))
    async with batcher():
        handle = await partition.start()
        await eventually(lambda: has_drained(handle, 2))
        await partition.append("a")
        await eventually(partition.is_empty)
        first_run = partition.client.get_workflow_handle(handle.id, run_id=handle.result_run_id)
        assert (await first_run.describe()).status is WorkflowExecutionStatus.CONTINUED_AS_NEW
    assert [row.request_id for row in sink.rows] == ["a"]


async def test_batcher_history_does_not_grow_with_the_writes(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    async with batcher():
        handle = await partition.start()
        await partition.append(*(f"first-{number}" for number in range(10)))
        await eventually(partition.is_empty)
        after_ten = (await handle.describe()).history_length
        await partition.append(*(f"then-{number}" for number in range(1_000)))
        await eventually(partition.is_empty)
        assert (await handle.describe()).history_length == after_ten
    assert len(sink.rows) == 1_010


@dataclass(slots=True)
class HeldFlush:
    """A drain that expires when `expire` is set, and a flush that lasts until `finish` is set."""

    expire: asyncio.Event
    finish: asyncio.Event
    flushes: int = 0

    @activity.defn
    async def drain(self, _input: DrainInput) -> DrainResult:
        await self.expire.wait()
        return DrainResult(end=DrainEnd.EXPIRED, progress=DrainProgress())

    @activity.defn
    async def flush(self, _partition: PartitionRef) -> None:
        self.flushes += 1
        await self.finish.wait()


async def test_flushes_asked_for_during_another_one_are_merged(client: Client, partition: HostedPartition) -> None:
    held = HeldFlush(asyncio.Event(), asyncio.Event())
    async with host_worker(client, partition.ref.queue, held.drain, held.flush):
        handle = await partition.start()
        await handle.signal(BatcherWorkflow.flush)
        await eventually(lambda: runs(handle, "drain", "flush"))
        for _ in range(5):
            await handle.signal(BatcherWorkflow.flush)
        held.finish.set()
        await eventually(lambda: held.flushes == 2)
        await handle.signal(BatcherWorkflow.stop)
        held.expire.set()
        await eventually(lambda: has_status(handle, WorkflowExecutionStatus.COMPLETED))
    assert held.flushes == 2


async def test_flush_refused_by_a_full_redis_holds_up_neither_drain_nor_stop(
    client: Client, own_server: AnyRedis, name: str, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "FLUSH_TIMEOUT", timedelta(seconds=2))
    monkeypatch.setattr(loop_module, "DRAIN_FOR", timedelta(seconds=1))
    async with connect(own_server.url) as redis:
        partition = partition_of(client, redis, name)
        await partition.queue.ensure_group()
        await partition.append("a")
        await tell_all(own_server, "CONFIG SET", "maxmemory", 1)
        drains = drains_of(client, redis, own_server, name, sink, max_wait=LONG_WAIT)
        async with host_worker(client, name, drains.drain, drains.flush):
            handle = await partition.start()
            await handle.signal(BatcherWorkflow.flush)
            await eventually(lambda: has_drained(handle, 2))
            await handle.signal(BatcherWorkflow.flush)
            await handle.signal(BatcherWorkflow.stop)
            await eventually(lambda: has_status(handle, WorkflowExecutionStatus.COMPLETED))
    assert [row.request_id for row in sink.rows] == ["a"]


@pytest.mark.parametrize(
    ("signal", "state", "status"),
    [
        (BatcherWorkflow.pause, BatcherState.PAUSED, WorkflowExecutionStatus.RUNNING),
        (BatcherWorkflow.stop, BatcherState.STOPPING, WorkflowExecutionStatus.COMPLETED),
    ],
)
async def test_batcher_obeys_a_signal_while_it_waits_to_continue_as_new(
    client: Client,
    partition: HostedPartition,
    signal: Callable[..., Any],
    state: BatcherState,
    status: WorkflowExecutionStatus,
) -> None:
    held = HeldFlush(asyncio.Event(), asyncio.Event())
    async with host_worker(client, partition.ref.queue, held.drain, held.flush):
        handle = await partition.start()
        await handle.signal(BatcherWorkflow.flush)
        await eventually(lambda: runs(handle, "drain", "flush"))
        held.expire.set()
        await eventually(lambda: has_drained(handle, 1))
        await handle.signal(signal)
        held.finish.set()
        await eventually(lambda: has_status(handle, status), within_s=5)
        await eventually(lambda: has_state(handle, state), within_s=5)


async def test_batcher_waits_while_an_operator_has_paused_the_drain_activity(
    batcher: Batcher, partition: HostedPartition, sink: MemorySink
) -> None:
    client = partition.client
    execution = WorkflowExecution(workflow_id=batcher_workflow_id(partition.ref))
    async with batcher():
        handle = await partition.start()
        await eventually(lambda: runs(handle, "drain"))
        await client.workflow_service.pause_activity(
            PauseActivityRequest(namespace=client.namespace, execution=execution, type="drain")
        )
        await eventually(lambda: drain_is_paused(handle))
        await partition.append("a")
        await never(partition.is_empty)
        assert sink.batches == []
        await client.workflow_service.unpause_activity(
            UnpauseActivityRequest(namespace=client.namespace, execution=execution, type="drain")
        )
        await eventually(partition.is_empty)
    assert [row.request_id for row in sink.rows] == ["a"]
