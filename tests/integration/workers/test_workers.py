"""The worker of the callers and the worker of the batcher, together on real servers."""

import asyncio
import contextlib
import signal
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

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
from write_batcher.config import Settings, load_settings
from write_batcher.errors import WrongSink
from write_batcher.models import ConfirmBy, Outcome
from write_batcher.queue import contract_keeper
from write_batcher.queue.contract import ContractStore, Terms
from write_batcher.queue.routing import partition_of
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.batcher_worker import make_batcher_worker, run_batcher_worker
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workers.main_worker import make_main_worker
from write_batcher.workers.serving import SHUTDOWN_GRACE, SHUTDOWN_WITHIN
from write_batcher.workflows.main import MainInput, MainResult, MainWorkflow

RESULT_TIMEOUT_S = 60

Handle = WorkflowHandle[MainWorkflow, MainResult]


async def start_callers(client: Client, settings: Settings, count: int, *, beginning_at: int = 0) -> list[Handle]:
    order = MainInput(item="tea", cents=450, queue=settings.queue, confirm_by=settings.confirm_by, business_s=0.0)
    return await asyncio.gather(
        *(
            client.start_workflow(
                MainWorkflow.run, order, id=f"{settings.queue}-{number}", task_queue=settings.main_task_queue
            )
            for number in range(beginning_at, beginning_at + count)
        )
    )


async def results_of(handles: list[Handle]) -> list[MainResult]:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        return await asyncio.gather(*(handle.result() for handle in handles))


async def is_empty(redis: Redis, queue: WriteQueue) -> bool:
    statistics = await queue.statistics()
    return (statistics.backlog, statistics.pending, await redis.exists(queue.live_key)) == (0, 0, 0)


@pytest.mark.usefixtures("quick_reads")
@pytest.mark.parametrize("confirm_by", ConfirmBy)
async def test_workers_write_for_fifty_workflows_and_leave_the_stream_empty(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, confirm_by: ConfirmBy
) -> None:
    settings = settings.model_copy(update={"confirm_by": confirm_by})
    await start_batching(client, redis, settings)
    async with make_main_worker(client, settings), batching(client, redis, settings, sink):
        results = await results_of(await start_callers(client, settings, 50))
        await eventually(lambda: is_empty(redis, WriteQueue(redis, queue_ref(client, settings.queue), 0)))
    outcome = Outcome.QUEUED if confirm_by is ConfirmBy.NONE else Outcome.WRITTEN
    assert [result.outcome for result in results] == [outcome] * 50
    assert sorted(row.request_id for row in sink.rows) == sorted(result.request_id for result in results)
    assert len(sink.batches) < 50


async def test_stopped_batcher_worker_hands_over_at_once(
    temporal_server: TemporalServer, client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    contract = await start_batching(client, redis, settings)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(make_main_worker(client, settings))
        workers: dict[str, Worker] = {}
        for identity in ("first", "second"):
            its_client = await Client.connect(temporal_server.address, identity=identity)
            workers[identity] = make_batcher_worker(its_client, settings, redis, sink, lambda: contract)
            await stack.enter_async_context(workers[identity])
        await eventually(lambda: drained_by(client, settings, *workers))
        [stopped] = [identity for identity in workers if await drained_by(client, settings, identity)]
        [successor] = workers.keys() - {stopped}
        handles = await start_callers(client, settings, 30)
        await eventually(lambda: len(sink.rows) >= 5)
        await workers[stopped].shutdown()
        await eventually(lambda: drained_by(client, settings, successor), within_s=2)
        handles += await start_callers(client, settings, 30, beginning_at=30)
        results = await results_of(handles)
    assert sorted(row.request_id for row in sink.rows) == sorted(result.request_id for result in results)


async def drained_by(client: Client, settings: Settings, *identities: str) -> bool:
    pending = (await batcher_of(client, settings).describe()).raw_description.pending_activities
    return any(activity.last_worker_identity in identities for activity in pending)


@pytest.mark.usefixtures("quick_reads")
async def test_partitions_share_the_requests_by_their_keys(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    settings = settings.model_copy(update={"partitions": 4})
    await start_batching(client, redis, settings)
    async with make_main_worker(client, settings), batching(client, redis, settings, sink):
        await results_of(await start_callers(client, settings, 40))
    drained = {batch.batch_id.split("/")[1] for batch in sink.batches}
    assert drained == {"0", "1", "2", "3"}
    for batch in sink.batches:
        assert {str(partition_of(request.request_id, 4)) for request in batch.requests} == {
            batch.batch_id.split("/")[1]
        }
    assert len(sink.rows) == 40


@pytest.mark.usefixtures("quick_reads")
async def test_two_queues_of_one_namespace_write_to_their_own_databases(
    client: Client, redis: Redis, redis_server: AnyRedis, name: str
) -> None:
    sinks = {f"{name}-{letter}": MemorySink() for letter in "ab"}
    async with contextlib.AsyncExitStack() as stack:
        for queue, sink in sinks.items():
            settings = load_settings(redis_url=redis_server.url, queue=queue, max_wait="100ms")
            await start_batching(client, redis, settings)
            await stack.enter_async_context(batching(client, redis, settings, sink))
        for queue in sinks:
            await append(client, redis, queue, 0, f"of-{queue}")
        await eventually(lambda: all(sink.rows for sink in sinks.values()))
    assert {queue: [row.request_id for row in sink.rows] for queue, sink in sinks.items()} == {
        queue: [f"of-{queue}"] for queue in sinks
    }


@pytest.mark.usefixtures("quick_reads")
async def test_worker_does_not_drain_another_queue(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    """Two queues on one task queue, by configuration: nothing may reach the wrong database."""
    other = settings.model_copy(update={"queue": f"{settings.queue}-other"})
    await start_batching(client, redis, other)
    await append(client, redis, other.queue, 0, "a")
    async with batching(client, redis, settings, sink):
        await eventually(lambda: last_failure_names(client, other, settings.queue))
    assert sink.rows == []
    assert (await WriteQueue(redis, queue_ref(client, other.queue), 0).statistics()).backlog == 1


async def last_failure_names(client: Client, settings: Settings, text: str) -> bool:
    description = await batcher_of(client, settings).describe()
    return any(text in one.last_failure.message for one in description.raw_description.pending_activities)


@pytest.mark.usefixtures("quick_reads")
async def test_run_batcher_worker_prepares_its_queue_and_ends_at_sigterm(
    temporal_server: TemporalServer,
    client: Client,
    redis: Redis,
    settings: Settings,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    settings = settings.model_copy(update={"partitions": 2, "database_url": database_url})
    running = asyncio.create_task(run_batcher_worker(settings))
    await eventually(lambda: running.done() or are_running(client, settings, 0, 1))
    assert not running.done()
    contract = await ContractStore(redis, queue_ref(client, settings.queue)).read()
    assert contract is not None
    assert (contract.partitions, contract.max_wait, contract.tables) == (
        2,
        settings.max_wait,
        {"main_writes": "insert"},
    )
    # The worker may get its first drains only after its shutdown has begun.
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(SHUTDOWN_GRACE.total_seconds() / 2):
        await running


@pytest.mark.parametrize("later", [False, True], ids=["at its start", "later"])
async def test_batcher_worker_of_another_database_is_refused_with_both_named(
    temporal_server: TemporalServer,
    client: Client,
    redis: Redis,
    settings: Settings,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    later: bool,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setattr(contract_keeper, "ANNOUNCE_EVERY", timedelta(milliseconds=100))
    settings = settings.model_copy(update={"database_url": database_url})
    store = ContractStore(redis, queue_ref(client, settings.queue))
    others = some_terms(sink_id="the-sink-of-production")
    if not later:
        await store.announce("production", others)
    running = asyncio.create_task(run_batcher_worker(settings))
    if later:
        await eventually(lambda: running.done() or are_running(client, settings, 0))
        await take_over(store, others)
    async with asyncio.timeout(SHUTDOWN_WITHIN.total_seconds()):
        with pytest.raises(WrongSink, match="the-sink-of-production") as refusal:
            await running
    async with SqlSink.open(database_url, tables=["main_writes"]) as sink:
        assert sink.sink_id in str(refusal.value)
    if not later:
        with pytest.raises(RPCError):
            await status_of(client, settings, 0)


async def take_over(store: ContractStore, terms: Terms) -> None:
    """Do what happens when Redis loses the contract and a worker of another database is faster."""
    while True:
        await store.forget()
        with contextlib.suppress(WrongSink):
            await store.announce("production", terms)
            return


async def are_running(client: Client, settings: Settings, *partitions: int) -> bool:
    try:
        statuses = [await status_of(client, settings, partition) for partition in partitions]
    except RPCError:
        return False
    return all(status is WorkflowExecutionStatus.RUNNING for status in statuses)
