"""The two workers together, the plugin for a worker of one's own, and what they say when they cannot start."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis, RedisCluster
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

# The sandbox loads this module anew for `Shop`; what the tests need is no business of a workflow.
with workflow.unsafe.imports_passed_through():
    from tests.support.fakes import MemorySink
    from tests.support.redis_kinds import AnyRedis
    from tests.support.waiting import eventually
    from write_batcher.activities.drain import loop as loop_module, take
    from write_batcher.config import Settings, load_settings
    from write_batcher.errors import ConfigurationError
    from write_batcher.models import ConfirmBy, DrainEnd, Outcome, PartitionRef, WriteRequest
    from write_batcher.queue import redis_client as queue_connections
    from write_batcher.queue.codec import Codec
    from write_batcher.queue.partitions import Partitions
    from write_batcher.queue.routing import partition_of
    from write_batcher.queue.stream import WriteQueue
    from write_batcher.workers import connections
    from write_batcher.workers.batcher_worker import make_batcher_worker, run_batcher_worker, start_batchers
    from write_batcher.workers.connections import connect_redis, connect_temporal
    from write_batcher.workers.embedded.redis_server import RedisServer
    from write_batcher.workers.embedded.server import choose_ports
    from write_batcher.workers.embedded.temporal_server import TemporalServer
    from write_batcher.workers.main_worker import make_main_worker
    from write_batcher.workers.plugin import WriteBatching
    from write_batcher.workers.serving import GRACE
    from write_batcher.workflows.batched_writes import BatchedWrites, WriteOptions
    from write_batcher.workflows.batcher import BatcherWorkflow, batcher_workflow_id
    from write_batcher.workflows.main import MainInput, MainResult, MainWorkflow

RESULT_TIMEOUT_S = 60
QUICK = timedelta(milliseconds=100)

Handle = WorkflowHandle[MainWorkflow, MainResult]


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def quick_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that stops looks up when its read returns."""
    monkeypatch.setattr(take, "LONGEST_BLOCK", QUICK)


@pytest.fixture
def settings(redis_server: AnyRedis, name: str) -> Settings:
    return load_settings(
        redis_url=redis_server.url,
        queue=name,
        main_task_queue=f"{name}-main",
        batcher_task_queue=f"{name}-batcher",
        max_wait=timedelta(milliseconds=200),
    )


async def start_batching(
    client: Client,
    redis: Redis,
    settings: Settings,
    *,
    stopped_too: bool = True,
) -> None:
    """What a batcher worker does when it starts; without `stopped_too` what it does from time to time."""
    partitions = await Partitions(redis, settings.queue).announce(settings.partitions)
    await start_batchers(client, settings, partitions, stopped_too=stopped_too)


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


async def append(client: Client, redis: Redis, queue: str, partition: int, request_id: str) -> None:
    request = WriteRequest(request_id=request_id, table="main_writes", record={})
    fields = await Codec(client.data_converter).encode(request)
    await WriteQueue(redis, queue, partition).append(fields, max_backlog=100)


async def is_empty(redis: Redis, queue: WriteQueue) -> bool:
    statistics = await queue.statistics()
    return (statistics.backlog, statistics.pending, await redis.exists(queue.live_key)) == (0, 0, 0)


def batcher_of(client: Client, settings: Settings, partition: int = 0) -> WorkflowHandle[BatcherWorkflow, DrainEnd]:
    workflow_id = batcher_workflow_id(PartitionRef(queue=settings.queue, partition=partition))
    return client.get_workflow_handle_for(BatcherWorkflow.run, workflow_id)


async def status_of(client: Client, settings: Settings, partition: int) -> WorkflowExecutionStatus | None:
    return (await batcher_of(client, settings, partition).describe()).status


@pytest.mark.usefixtures("quick_reads")
@pytest.mark.parametrize("confirm_by", ConfirmBy)
async def test_workers_write_for_fifty_workflows_and_leave_the_stream_empty(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, confirm_by: ConfirmBy
) -> None:
    settings = settings.model_copy(update={"confirm_by": confirm_by})
    await start_batching(client, redis, settings)
    async with make_main_worker(client, settings), make_batcher_worker(client, settings, redis, sink):
        results = await results_of(await start_callers(client, settings, 50))
        await eventually(lambda: is_empty(redis, WriteQueue(redis, settings.queue, 0)))
    outcome = Outcome.QUEUED if confirm_by is ConfirmBy.NONE else Outcome.WRITTEN
    assert [result.outcome for result in results] == [outcome] * 50
    assert sorted(row.request_id for row in sink.rows) == sorted(result.request_id for result in results)
    assert len(sink.batches) < 50


async def test_batcher_worker_that_is_stopped_hands_over_at_once(
    temporal_server: TemporalServer, client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    await start_batching(client, redis, settings)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(make_main_worker(client, settings))
        workers: dict[str, Worker] = {}
        for identity in ("first", "second"):
            its_client = await Client.connect(temporal_server.address, identity=identity)
            workers[identity] = make_batcher_worker(its_client, settings, redis, sink)
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


@workflow.defn
class Shop:
    """An application's own workflow."""

    @workflow.init
    def __init__(self, queue: str) -> None:
        self._writes = BatchedWrites(WriteOptions(queue=queue))

    @workflow.run
    async def run(self, queue: str) -> Outcome:
        receipt = await self._writes.submit("sales", {"shop": workflow.info().workflow_id})
        return receipt.outcome


@pytest.mark.usefixtures("quick_reads")
async def test_plugin_gives_a_worker_of_ones_own_the_caller_side(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, name: str
) -> None:
    await start_batching(client, redis, settings)
    shop = Worker(client, task_queue=name, workflows=[Shop], plugins=[WriteBatching(settings)])
    async with shop, make_batcher_worker(client, settings, redis, sink):
        async with asyncio.timeout(RESULT_TIMEOUT_S):
            outcome = await client.execute_workflow(Shop.run, name, id=name, task_queue=name)
    assert outcome is Outcome.WRITTEN
    assert [(row.table, row.record) for row in sink.rows] == [("sales", {"shop": name})]


@pytest.mark.usefixtures("quick_reads")
async def test_partitions_share_the_requests_by_their_keys(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    settings = settings.model_copy(update={"partitions": 4})
    await start_batching(client, redis, settings)
    async with make_main_worker(client, settings), make_batcher_worker(client, settings, redis, sink):
        await results_of(await start_callers(client, settings, 40))
    drained = {batch.batch_id.split("/")[1] for batch in sink.batches}
    assert drained == {"0", "1", "2", "3"}
    for batch in sink.batches:
        assert {str(partition_of(request.request_id, 4)) for request in batch.requests} == {
            batch.batch_id.split("/")[1]
        }
    assert len(sink.rows) == 40


@pytest.mark.usefixtures("quick_reads")
async def test_partitions_that_a_queue_no_longer_has_are_drained_and_end(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    monkeypatch.setattr(loop_module, "RETIRE_AFTER", timedelta(milliseconds=500))
    await Partitions(redis, settings.queue).announce(3)
    for partition in range(3):
        await append(client, redis, settings.queue, partition, f"in-{partition}")
    await start_batching(client, redis, settings)
    async with make_batcher_worker(client, settings, redis, sink):
        await eventually(lambda: have_ended(client, settings, 1, 2))
        assert await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING
    assert sorted(row.request_id for row in sink.rows) == ["in-0", "in-1", "in-2"]


@pytest.mark.usefixtures("quick_reads")
async def test_two_queues_of_one_namespace_write_to_their_own_databases(
    client: Client, redis: Redis, redis_server: AnyRedis, name: str
) -> None:
    sinks = {f"{name}-{letter}": MemorySink() for letter in "ab"}
    async with contextlib.AsyncExitStack() as stack:
        for queue, sink in sinks.items():
            settings = load_settings(redis_url=redis_server.url, queue=queue, max_wait="100ms")
            await start_batching(client, redis, settings)
            await stack.enter_async_context(make_batcher_worker(client, settings, redis, sink))
        for queue in sinks:
            await append(client, redis, queue, 0, f"of-{queue}")
        await eventually(lambda: all(sink.rows for sink in sinks.values()))
    assert {queue: [row.request_id for row in sink.rows] for queue, sink in sinks.items()} == {
        queue: [f"of-{queue}"] for queue in sinks
    }


@pytest.mark.usefixtures("quick_reads")
async def test_worker_does_not_drain_a_queue_that_is_not_its_own(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    """Two queues on one task queue, by configuration: nothing may reach the wrong database."""
    other = settings.model_copy(update={"queue": f"{settings.queue}-other"})
    await start_batching(client, redis, other)
    await append(client, redis, other.queue, 0, "a")
    async with make_batcher_worker(client, settings, redis, sink):
        await eventually(lambda: last_failure_names(client, other, settings.queue))
    assert sink.rows == []
    assert (await WriteQueue(redis, other.queue, 0).statistics()).backlog == 1


async def last_failure_names(client: Client, settings: Settings, text: str) -> bool:
    description = await batcher_of(client, settings).describe()
    return any(text in one.last_failure.message for one in description.raw_description.pending_activities)


@pytest.mark.usefixtures("quick_reads")
async def test_worker_of_a_queue_that_shrank_drains_all_old_partitions_at_once(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink
) -> None:
    await Partitions(redis, settings.queue).announce(40)
    for partition in range(40):
        await append(client, redis, settings.queue, partition, f"in-{partition}")
    partitions = await Partitions(redis, settings.queue).announce(1)
    await start_batchers(client, settings, partitions, stopped_too=True)
    async with make_batcher_worker(client, settings, redis, sink, partitions=partitions):
        await eventually(lambda: len(sink.rows) == 40)


@pytest.mark.usefixtures("quick_reads")
async def test_batcher_workflow_that_retired_while_its_queue_grew_is_started_again(
    client: Client, redis: Redis, settings: Settings, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    monkeypatch.setattr(loop_module, "RETIRE_AFTER", timedelta(milliseconds=200))
    await Partitions(redis, settings.queue).announce(2)
    await start_batching(client, redis, settings)
    async with make_batcher_worker(client, settings, redis, sink):
        await eventually(lambda: have_ended(client, settings, 1))
    grown = settings.model_copy(update={"partitions": 2})
    await start_batching(client, redis, grown, stopped_too=False)
    assert await status_of(client, settings, 1) is WorkflowExecutionStatus.RUNNING


async def have_ended(client: Client, settings: Settings, *partitions: int) -> bool:
    statuses = [await status_of(client, settings, partition) for partition in partitions]
    return all(status is WorkflowExecutionStatus.COMPLETED for status in statuses)


@pytest.mark.usefixtures("quick_reads")
@pytest.mark.parametrize("value", [None, "abc", "0"])
async def test_drain_announces_the_partitions_again_when_redis_lost_or_garbled_them(
    client: Client,
    redis: Redis,
    settings: Settings,
    sink: MemorySink,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    await start_batching(client, redis, settings)
    key = f"write-batcher:{settings.queue}:partitions"
    async with make_batcher_worker(client, settings, redis, sink):
        await (redis.delete(key) if value is None else redis.set(key, value))
        await eventually(lambda: holds(redis, key, b"1"))


async def holds(redis: Redis, key: str, value: bytes) -> bool:
    return bool(await redis.get(key) == value)


@pytest.mark.usefixtures("quick_reads")
@pytest.mark.parametrize(
    "new_worker",
    [True, False],
)
async def test_batcher_workflow_that_was_stopped_starts_only_with_a_new_worker(
    client: Client,
    redis: Redis,
    settings: Settings,
    sink: MemorySink,
    new_worker: bool,
) -> None:
    await start_batching(client, redis, settings)
    async with make_batcher_worker(client, settings, redis, sink):
        await batcher_of(client, settings).signal(BatcherWorkflow.stop)
        await eventually(lambda: have_ended(client, settings, 0))
    await start_batching(client, redis, settings, stopped_too=new_worker)
    assert (await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING) is new_worker


async def test_batcher_workflow_that_was_terminated_is_started_again(
    client: Client, redis: Redis, settings: Settings
) -> None:
    await start_batching(client, redis, settings)
    await batcher_of(client, settings).terminate()
    await start_batching(client, redis, settings, stopped_too=False)
    assert await status_of(client, settings, 0) is WorkflowExecutionStatus.RUNNING


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
    assert await Partitions(redis, settings.queue).count() == 2
    # The first drains may come to the worker only when its shutdown has begun.
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(GRACE.total_seconds() / 2):
        await running


async def are_running(client: Client, settings: Settings, *partitions: int) -> bool:
    try:
        statuses = [await status_of(client, settings, partition) for partition in partitions]
    except RPCError:
        return False
    return all(status is WorkflowExecutionStatus.RUNNING for status in statuses)


async def test_cancelling_a_task_that_talks_to_redis_always_ends_it(redis: Redis, name: str) -> None:
    queue = WriteQueue(redis, name, 0)
    await queue.statistics()  # connects

    async def ask_for_ever() -> None:
        while True:
            await queue.statistics()

    for steps in range(1, 200):
        asking = asyncio.create_task(ask_for_ever())
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        _, alive = await asyncio.wait({asking}, timeout=2)
        assert not alive, f"cancelled after {steps} steps of the event loop"


@pytest.fixture
def free_port() -> int:
    return choose_ports({"nobody": None})["nobody"]


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A server that accepts connections and never answers."""

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def refusal_of_temporal() -> str:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        with pytest.raises(ConfigurationError) as refusal:
            await connect_temporal()
    return str(refusal.value)


async def refusal_of_redis(url: str) -> str:
    async with asyncio.timeout(RESULT_TIMEOUT_S):
        with pytest.raises(ConfigurationError) as refusal:
            await connect_redis(load_settings(redis_url=url))
    return str(refusal.value)


async def test_connecting_names_the_address_of_a_temporal_that_is_not_there(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{free_port}")
    message = await refusal_of_temporal()
    assert f"Temporal at 127.0.0.1:{free_port} cannot be reached" in message
    assert "start it (`write-batcher up`) or set TEMPORAL_ADDRESS" in message
    assert "\n" not in message


async def test_connecting_gives_up_on_a_temporal_that_does_not_answer(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", timedelta(milliseconds=500))
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{silent_port}")
    message = await refusal_of_temporal()
    assert f"Temporal at 127.0.0.1:{silent_port} cannot be reached" in message
    assert "no answer" in message


async def test_connecting_names_a_namespace_that_does_not_exist(
    temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "nowhere")
    assert await refusal_of_temporal() == (
        f"Temporal at {temporal_server.address} has no namespace 'nowhere': create it or set TEMPORAL_NAMESPACE"
    )


async def test_connecting_names_a_temporal_profile_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporal.toml").write_text('[profile.default]\napi_key = "s3cret\n', "utf-8")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    message = await refusal_of_temporal()
    assert "the Temporal profile cannot be read" in message
    assert "line 2" in message
    assert "s3cret" not in message
    assert "\n" not in message


async def test_connecting_names_the_address_of_a_redis_that_is_not_there(free_port: int) -> None:
    message = await refusal_of_redis(f"redis://127.0.0.1:{free_port}/0")
    assert f"Redis at redis://127.0.0.1:{free_port}/0 cannot be used" in message
    assert "start it (`write-batcher up`) or set WRITE_BATCHER_REDIS_URL" in message
    assert "\n" not in message


async def test_connecting_gives_up_on_a_redis_that_does_not_answer(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_connections, "COMMAND_TIMEOUT", timedelta(milliseconds=500))
    url = f"redis://127.0.0.1:{silent_port}/0"
    assert f"Redis at {url} cannot be used" in await refusal_of_redis(url)


async def test_connecting_with_a_wrong_password_does_not_show_it(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, password="right") as server:  # noqa: S106
        message = await refusal_of_redis(f"redis://:wrong-password@127.0.0.1:{server.port}/0")
    assert f"Redis at redis://:***@127.0.0.1:{server.port}/0 cannot be used" in message
    assert "WRITE_BATCHER_REDIS_URL" in message
    assert "wrong-password" not in message


@pytest.mark.parametrize(
    ("extra", "warning"),
    [
        (["--appendonly", "no"], "Redis has appendonly no and loses queued writes when it restarts"),
        (["--maxmemory-policy", "allkeys-lru"], "Redis has maxmemory-policy allkeys-lru and may evict queued writes"),
        (["--rename-command", "CONFIG", ""], "cannot check whether Redis keeps its data"),
    ],
)
async def test_connecting_warns_of_a_redis_that_loses_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, extra: list[str], warning: str
) -> None:
    async with RedisServer(tmp_path, extra=extra) as server, await connect_redis(load_settings(redis_url=server.url)):
        pass
    assert warning in caplog.text


async def test_connecting_to_a_redis_that_tells_no_configuration_warns_that_it_cannot_be_checked(
    redis_server: AnyRedis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer_nothing(*_: object, **__: object) -> dict[str, str]:
        return {}  # as Redis Enterprise does

    monkeypatch.setattr(Redis, "config_get", answer_nothing)
    monkeypatch.setattr(RedisCluster, "config_get", answer_nothing)
    async with await connect_redis(load_settings(redis_url=redis_server.url)):
        pass
    assert "cannot check whether Redis keeps its data" in caplog.text
    assert "loses queued writes" not in caplog.text


async def test_connecting_with_an_option_that_the_job_decides_on_names_it(redis_server: AnyRedis) -> None:
    mark = "&" if "?" in redis_server.url else "?"
    message = await refusal_of_redis(f"{redis_server.url}{mark}protocol=3")
    assert "option protocol=3 cannot be chosen, write-batcher needs its own: remove it" in message
    assert "WRITE_BATCHER_REDIS_URL" in message


async def test_connecting_to_a_redis_that_keeps_its_data_warns_of_nothing(
    redis_server: AnyRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with await connect_redis(load_settings(redis_url=redis_server.url)):
        pass
    assert caplog.text == ""
