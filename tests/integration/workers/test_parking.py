"""Drains with nothing to do are parked: Temporal is left alone until a worker sees an entry in the stream."""

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from temporalio.client import Client, WorkflowExecutionStatus

from tests.support.batchers import (
    append,
    batcher_of,
    batching,
    queue_ref,
    some_terms,
    start_batching,
    status_of,
)
from tests.support.fakes import MemorySink
from tests.support.redis_kinds import AnyRedis
from tests.support.waiting import eventually
from write_batcher.activities.drain import housekeeping, read, watch
from write_batcher.config import Settings, load_settings
from write_batcher.models import PartitionRef
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.batcher_worker import start_batchers
from write_batcher.workers.operating.control import Verb, steer
from write_batcher.workers.operating.host import Hosts, HostState, HostView
from write_batcher.workers.waking import Waker

SOON = timedelta(milliseconds=100)
WOKEN_WITHIN_S = 5  # a second on a quiet machine


@dataclass
class Parkable:
    """A queue of one partition whose drain is parked after a second without requests."""

    client: Client
    redis: Redis
    settings: Settings
    sink: MemorySink

    @property
    def partition(self) -> PartitionRef:
        return PartitionRef(queue=self.settings.queue, partition=0)

    @property
    def stream(self) -> WriteQueue:
        return WriteQueue(self.redis, queue_ref(self.client, self.settings.queue), 0)

    async def append(self, request_id: str) -> None:
        await append(self.client, self.redis, self.settings.queue, 0, request_id)

    async def host(self) -> HostView:
        return await Hosts(self.client).look(self.partition)

    async def is_parked(self) -> bool:
        return (await self.host()).state is HostState.PARKED

    async def has_written(self, *request_ids: str) -> None:
        await eventually(lambda: set(request_ids) <= set(self.sink.row_ids), within_s=WOKEN_WITHIN_S)

    async def wakes(self) -> int:
        """How often the present run of the workflow has been woken."""
        history = await batcher_of(self.client, self.settings).fetch_history()
        return sum(event.workflow_execution_signaled_event_attributes.signal_name == "wake" for event in history.events)


@pytest.fixture
async def queue(
    client: Client, redis: Redis, redis_server: AnyRedis, name: str, monkeypatch: pytest.MonkeyPatch
) -> Parkable:
    monkeypatch.setattr(read, "LONGEST_BLOCK", SOON)
    monkeypatch.setattr(watch, "BEAT_EVERY", SOON)
    monkeypatch.setattr(housekeeping, "CONTRACT_EVERY", SOON)
    settings = load_settings(redis_url=redis_server.url, queue=name, max_wait="50ms", park_after="1s")
    queue = Parkable(client, redis, settings, MemorySink())
    await start_batching(client, redis, settings)
    return queue


async def test_idle_drain_is_parked_and_woken_by_whatever_is_appended(queue: Parkable) -> None:
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await queue.append("first")
        await queue.has_written("first")
        await eventually(queue.is_parked)
        await queue.append("second")
        await queue.has_written("second")
        await eventually(queue.is_parked)
        await queue.redis.xadd(queue.stream.stream_key, {"what": "is this"})
        await eventually(lambda: _has_dead_letter(queue), within_s=WOKEN_WITHIN_S)


async def _has_dead_letter(queue: Parkable) -> bool:
    return (await queue.stream.statistics()).dead == 1


async def test_no_entry_sleeps_whenever_it_comes(queue: Parkable) -> None:
    pauses = random.Random(5)
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        for number in range(12):
            await asyncio.sleep(pauses.uniform(0.8, 1.5))  # about when the drain is parked
            await queue.append(f"{number}")
            await queue.has_written(f"{number}")


async def test_entries_that_come_while_no_worker_lives_are_found_by_the_next_one(queue: Parkable) -> None:
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await eventually(queue.is_parked)
    await queue.append("a")
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await queue.has_written("a")


async def test_of_several_workers_one_wakes(queue: Parkable) -> None:
    others = [Waker(Hosts(queue.client), queue.redis, queue.stream.ref) for _ in range(3)]
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        watching = [asyncio.create_task(other.run()) for other in others]
        await eventually(queue.is_parked)
        await queue.append("a")
        await queue.has_written("a")
        assert await queue.wakes() == 1
        for task in watching:
            task.cancel()


async def test_parked_drain_of_a_partition_that_another_worker_brought_is_woken(queue: Parkable) -> None:
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        store = ContractStore(queue.redis, queue.stream.ref)
        await store.announce("another worker", some_terms(partitions=2))  # it dies at once, and is known for a while
        await start_batchers(queue.client, queue.settings, 2, sink_id="memory", restart_stopped=True)
        other = PartitionRef(queue=queue.settings.queue, partition=1)

        async def is_parked() -> bool:
            return (await Hosts(queue.client).look(other)).state is HostState.PARKED

        await eventually(is_parked, within_s=30)
        await append(queue.client, queue.redis, queue.settings.queue, 1, "a")
        await queue.has_written("a")


async def test_parked_drain_can_be_paused_and_is_not_woken_then(queue: Parkable) -> None:
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await eventually(queue.is_parked)
        assert await steer(queue.client, queue.partition, Verb.PAUSE) == "paused"
        await queue.append("a")
        await asyncio.sleep(1.5)  # that nothing happens only time can show: several looks
        assert (queue.sink.row_ids, await queue.wakes()) == ([], 0)
        assert (await queue.host()).state is HostState.PAUSED
        assert await steer(queue.client, queue.partition, Verb.RESUME) == "running"
        await queue.has_written("a")


async def test_parked_drain_takes_a_flush_and_a_stop(queue: Parkable) -> None:
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await eventually(queue.is_parked)
        assert await steer(queue.client, queue.partition, Verb.FLUSH) == "flush requested"
        await eventually(queue.is_parked)
        assert (await queue.stream.statistics()).backlog == 0
        await steer(queue.client, queue.partition, Verb.STOP)
    assert await status_of(queue.client, queue.settings, 0) is WorkflowExecutionStatus.COMPLETED


async def test_parked_drain_can_be_cancelled(queue: Parkable) -> None:
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await eventually(queue.is_parked)
        await batcher_of(queue.client, queue.settings).cancel()
        await eventually(lambda: _is_cancelled(queue))


async def _is_cancelled(queue: Parkable) -> bool:
    return await status_of(queue.client, queue.settings, 0) is WorkflowExecutionStatus.CANCELED


async def test_drain_that_is_parked_for_long_tidies_up_and_is_parked_again(queue: Parkable) -> None:
    queue.settings = queue.settings.model_copy(update={"parked_for": timedelta(seconds=1)})
    await batcher_of(queue.client, queue.settings).terminate()
    await start_batching(queue.client, queue.redis, queue.settings)
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await eventually(queue.is_parked)
        drains = (await queue.host()).drains or 0
        await eventually(lambda: _has_returned(queue, drains + 2))


async def _has_returned(queue: Parkable, drains: int) -> bool:
    return ((await queue.host()).drains or 0) >= drains


async def test_entry_that_a_parked_drain_left_without_a_trace_is_found(queue: Parkable) -> None:
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await eventually(queue.is_parked)
        await queue.redis.delete(queue.stream.reader_key, queue.stream.waking_key, queue.stream.counters_key)
        await queue.append("a")
        await queue.has_written("a")


async def test_held_request_keeps_its_drain_from_being_parked(queue: Parkable) -> None:
    queue.sink.hold = lambda request: "locked" if request.request_id == "held" else None
    async with batching(queue.client, queue.redis, queue.settings, queue.sink):
        await queue.append("held")
        await asyncio.sleep(3)  # that nothing happens only time can show
        host = await queue.host()
        assert (host.state, host.drains) == (HostState.RUNNING, 0)
        queue.sink.hold = lambda _request: None
        await eventually(lambda: queue.sink.row_ids == ["held"])
        await eventually(queue.is_parked)
