"""Every kind of Redis in short, as a user with only the rights of a batcher; and a cluster that moves slots and loses
servers. `make other-servers` runs the long tests on each kind.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Connection, Redis, RedisCluster
from temporalio.client import Client

from tests.support.drain_stage import EMPTY, NEVER, WITHIN_S, Stage, stage_on
from tests.support.order_callers import receipts_of, stacked
from tests.support.partitions import BACKLOG, MAX_LETTERS, TERMS, as_written, queue_ref, state_of, take
from tests.support.proxy import Proxy
from tests.support.redis_kinds import (
    PASSWORD,
    SLOTS,
    AnyRedis,
    Cluster,
    ClusterMaster,
    OneServer,
    RedisKind,
    SentinelService,
    TlsSentinelServer,
    TlsServer,
    limited_url,
    redis_of,
    tell_all,
)
from tests.support.waiting import eventually
from write_batcher.activities.drain import read as read_module
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.config import load_settings
from write_batcher.errors import QueueFull, QueueUnavailable
from write_batcher.models import Outcome
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.redis_client import MAX_CONNECTIONS, connect, translated_errors
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.connections import connect_redis
from write_batcher.workers.embedded.server import HOST, choose_ports

QUICK = timedelta(milliseconds=100)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_module, "LONGEST_BLOCK", QUICK)
    monkeypatch.setattr(read_module, "BACKOFF", Backoff(0.01, 0.05))


@pytest.fixture(scope="module", params=list(RedisKind))
async def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AnyRedis]:
    async with redis_of(request.param, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def stage(server: AnyRedis, name: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield await stage_of(server, name, stack)


async def stage_of(server: AnyRedis, name: str, stack: AsyncExitStack) -> Stage:
    url = limited_url(server)
    redis = await stack.enter_async_context(connect(url))
    return stage_on(redis, await stack.enter_async_context(connect(url, longest_block=QUICK)), name)


async def test_request_is_appended_once_written_confirmed_and_forgotten(stage: Stage) -> None:
    stage.max_wait = NEVER
    await stage.append("a", "b", "a")
    assert (await stage.statistics()).backlog == 2
    await stage.queue.append_flush()
    async with stage.draining():
        await eventually(lambda: stage.sink.batch_ids == [["a", "b"]])
        await eventually(stage.is_empty)
    assert [len(stage.temporal.receipts(caller)) for caller in "ab"] == [1, 1]
    assert (await stage.statistics()).counters["written"] == 2


async def test_rejected_request_is_a_dead_letter_until_it_is_replayed(stage: Stage) -> None:
    stage.sink.refuse_all("no such table")
    letters = DeadLetters(stage.redis, stage.queue.ref, 0)
    async with stage.draining():
        await stage.append("a")
        await eventually(stage.is_empty)
        [letter] = await letters.page()
        stage.sink.refuse_all(None)
        assert await letters.replay(letter)
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]
    assert await state_of(stage.queue) == EMPTY


async def test_more_callers_than_connections_wait_for_one(stage: Stage) -> None:
    await asyncio.gather(*(stage.append(f"request-{number}") for number in range(MAX_CONNECTIONS * 5)))
    assert (await stage.statistics()).backlog == MAX_CONNECTIONS * 5


async def test_server_out_of_memory_refuses_appends_but_can_be_drained(server: AnyRedis, stage: Stage) -> None:
    await stage.append("a", "b")
    first, second = await take(stage.queue)
    await tell_all(server, "CONFIG SET", "maxmemory", 1)
    try:
        with pytest.raises(QueueFull, match="out of memory"):
            await stage.append("c")
        await stage.queue.begin_alone(first)
        assert await stage.queue.acknowledge(as_written([first])) == 1
        await stage.queue.dead_letter(second, "rejected", "no such table", max_letters=MAX_LETTERS)
    finally:
        await tell_all(server, "CONFIG SET", "maxmemory", 0)
    assert await state_of(stage.queue) == (0, 0, 1)


async def test_crash_of_the_server_loses_nothing(server: AnyRedis, stage: Stage) -> None:
    stage.temporal.hold("a")
    await stage.append("a")
    async with stage.draining():
        await eventually(lambda: stage.temporal.held == 1)  # written, not acknowledged
        await server.kill()
        stage.temporal.release("a")
        resubmitting = asyncio.create_task(submit_until_appended(stage, "a", "b"))
        await server.start()
        await resubmitting
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a", "b"]
    assert stage.temporal.receipts("a")
    assert stage.temporal.receipts("b")


async def submit_until_appended(stage: Stage, *request_ids: str) -> None:
    """Append as the activity `enqueue_write` does: Temporal retries it."""

    async def appended(request_id: str) -> bool:
        try:
            await stage.append(request_id)
        except QueueUnavailable:
            return False
        return True

    for request_id in request_ids:
        await eventually(lambda: appended(request_id))  # noqa: B023 - it ends before the next one begins


async def test_workflows_and_batcher_find_the_new_primary_after_a_failover(
    client: Client, tmp_path: Path, name: str
) -> None:
    server = SentinelService(tmp_path)
    async with server, connect(server.url) as redis, stacked(client, name, redis, server) as stack, stack.caller():
        await stack.drain()
        before = [await stack.start() for _ in range(5)]
        await server.kill()
        meanwhile = [await stack.start() for _ in range(5)]
        await server.start()
        receipts = [receipt for handle in before + meanwhile for receipt in await receipts_of(handle)]
    assert {receipt.outcome for receipt in receipts} <= {Outcome.WRITTEN, Outcome.DUPLICATE}
    assert len(receipts) == len(stack.sink.rows) == 10


@pytest.mark.parametrize("kind", [RedisKind.VALKEY, RedisKind.REDIS6, RedisKind.REDIS7, RedisKind.TLS])
async def test_clients_follow_their_address_to_the_new_primary_after_a_failover(
    tmp_path: Path, name: str, kind: RedisKind
) -> None:
    """Behind a name or a proxy, nothing closes the connections to the old primary, which is now a replica."""
    old, new = one_of(kind, tmp_path / "old"), one_of(kind, tmp_path / "new")
    if isinstance(old, TlsServer) and isinstance(new, TlsServer):
        new.share_certificate(old)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(old)
        await stack.enter_async_context(new)
        await follow(new, old)
        await eventually(lambda: replicates(new))
        address = await stack.enter_async_context(Proxy(old.port))
        url = old.url.replace(str(old.port), str(address.port))
        redis = await stack.enter_async_context(connect(url))
        stage = stage_on(redis, await stack.enter_async_context(connect(url, longest_block=QUICK)), name)
        async with stage.draining():
            await submit_until_appended(stage, "before")
            await eventually(lambda: stage.sink.row_ids == ["before"])
            await tell_all(new, "REPLICAOF", "NO", "ONE")
            address.target_port = new.port
            await follow(old, new)
            await submit_until_appended(stage, "after")
            await eventually(lambda: stage.sink.row_ids == ["before", "after"])


def one_of(kind: RedisKind, folder: Path) -> OneServer:
    server = redis_of(kind, folder)
    assert isinstance(server, OneServer)
    return server


async def follow(replica: OneServer, primary: OneServer) -> None:
    await tell_all(primary, "CONFIG SET", "repl-diskless-sync-delay", 0)
    await tell_all(replica, "CONFIG SET", "masterauth", PASSWORD if isinstance(primary, TlsServer) else "")
    await tell_all(replica, "REPLICAOF", HOST, primary.port)


async def replicates(replica: OneServer) -> bool:
    [replication] = await tell_all(replica, "INFO", "replication")
    return bool(replication["master_link_status"] == "up")


async def test_connecting_warns_of_a_server_that_may_evict_data(
    server: AnyRedis, caplog: pytest.LogCaptureFixture
) -> None:
    async with await connect_redis(load_settings(redis_url=server.url)):
        pass
    assert caplog.text == ""
    await tell_all(server, "CONFIG SET", "maxmemory-policy", "allkeys-lru")
    async with await connect_redis(load_settings(redis_url=server.url)):
        pass
    await tell_all(server, "CONFIG SET", "maxmemory-policy", "noeviction")
    assert caplog.text.count("maxmemory-policy allkeys-lru") == 1


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


async def test_drain_follows_its_partition_to_another_master(cluster: Cluster, name: str) -> None:
    async with AsyncExitStack() as stack:
        stage = await stage_of(cluster, name, stack)
        async with stage.draining():
            await stage.append("before")
            await eventually(stage.is_empty)
            async with cluster.moving(stage.queue.stream_key) as target:
                await eventually(lambda: is_asked(target))
                submitting = asyncio.create_task(submit_until_appended(stage, "meanwhile"))
            await submitting
            await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["before", "meanwhile"]


async def is_asked(server: ClusterMaster) -> bool:
    [statistics] = await tell_all(server, "INFO", "commandstats")
    return "cmdstat_asking" in statistics


async def test_partition_is_read_while_the_default_node_of_redis_py_is_down(cluster: Cluster) -> None:
    url = limited_url(cluster)
    async with connect(url) as redis, connect(url, longest_block=QUICK) as reader:
        assert isinstance(reader, RedisCluster)
        asked = reader.get_default_node()
        queues = [WriteQueue(redis, queue_ref(f"orders-{number}"), 0, reader=reader) for number in range(20)]
        queue = next(queue for queue in queues if reader.get_node_from_key(queue.stream_key) != asked)
        await queue.ensure_group()
        down = next(master for master in cluster.masters if master.port == asked.port)
        await down.kill()
        async with asyncio.timeout(WITHIN_S):
            assert await queue.read_new(after="0", count=BACKLOG, max_bytes=1, block=QUICK) == []
        await cluster.start()


async def test_commands_to_all_servers_of_a_cluster_may_start_together(cluster: Cluster) -> None:
    async with connect(cluster.url) as redis:
        await redis.aclose()  # so that it has to discover the servers again
        queues = [WriteQueue(redis, queue_ref(f"orders-{number}"), 0) for number in range(20)]
        found = await asyncio.gather(*(queue.statistics() for queue in queues))
    assert [statistics.backlog for statistics in found] == [0] * 20


async def test_connection_that_is_closed_under_a_command_makes_the_queue_unavailable(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As redis-py does while it rediscovers the servers.
    send = Connection._send_packed_command

    async def close_and_send(connection: Connection, command: Any) -> None:
        await connection.disconnect(nowait=True)
        await send(connection, command)

    async with connect(cluster.url) as redis:
        await redis.get("key")
        monkeypatch.setattr(Connection, "_send_packed_command", close_and_send)
        with pytest.raises(QueueUnavailable, match="closed while it was in use"), translated_errors():
            await redis.get("key")
        monkeypatch.undo()
        assert await redis.get("key") is None


async def test_client_that_saw_a_server_die_closes_its_other_connections(cluster: Cluster) -> None:
    redis: Any = connect(cluster.url)
    queues = [WriteQueue(redis, queue_ref(f"orders-{number}"), 0) for number in range(20)]
    for queue in queues:
        await queue.statistics()
    down = cluster.masters[0]
    await down.kill()
    on_it = next(queue for queue in queues if redis.get_node_from_key(queue.stream_key).port == down.port)
    with pytest.raises(QueueUnavailable):
        await on_it.statistics()
    await redis.aclose()
    await cluster.start()
    assert not any(connection.is_connected for node in redis.get_nodes() for connection in node._connections)


async def test_cluster_is_reached_over_tls(tmp_path: Path, name: str) -> None:
    bus_port = str(choose_ports({"bus": None})["bus"])
    arguments = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", bus_port]
    async with TlsServer(tmp_path, cluster=True, extra=arguments) as server:
        await tell_all(server, "CLUSTER ADDSLOTSRANGE", 0, SLOTS - 1)
        async with connect(limited_url(server).replace("rediss:", "rediss+cluster:")) as redis:
            await eventually(lambda: is_announced(redis, name))


async def test_sentinel_and_its_servers_are_reached_over_tls(tmp_path: Path, name: str) -> None:
    primary = TlsServer(tmp_path)
    async with primary, TlsSentinelServer(tmp_path / "sentinel", primary) as sentinel, connect(sentinel.url) as redis:
        await eventually(lambda: is_announced(redis, name))


async def is_announced(redis: Redis, queue: str) -> bool:
    try:
        return (await ContractStore(redis, queue_ref(queue)).announce("one", TERMS)).partitions == 1
    except QueueUnavailable:  # the cluster, or the Sentinel, has only just started
        return False
