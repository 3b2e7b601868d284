"""The two logins of docs/redis-access.md on real servers: what each needs, and what callers cannot do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from temporalio.converter import DataConverter

from tests.support.partitions import (
    MAX_BYTES,
    TERMS,
    all_entries,
    append,
    as_written,
    die,
    ids_of,
    queue_ref,
    redelivered,
    take,
)
from tests.support.redis_kinds import AnyRedis, Login, RedisKind, acl, limited_url, redis_of, tell_all
from write_batcher.errors import QueueForbidden, QueueUnavailable
from write_batcher.models import Appended, Submission, WriteRequest
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.marks import HeldMark, Order
from write_batcher.queue.producer import Producer
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.target_state import TargetState

KINDS = [RedisKind.VALKEY, RedisKind.REDIS6, RedisKind.REDIS7, RedisKind.CLUSTER]
BLOCK = timedelta(milliseconds=50)
QUEUE = queue_ref("orders")
NO_PERMISSION = r"(?i)no ?perm|can't run this command"


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[AnyRedis]:
    async with redis_of(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def caller(server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(limited_url(server, Login.CALLER)) as client:
        yield client


@pytest.fixture
async def batcher(server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(limited_url(server, Login.BATCHER), longest_block=BLOCK) as client:
        yield client


async def append_as_callers_do(redis: Redis) -> list[Appended]:
    await redis.ping()
    request = WriteRequest(request_id="a", table="orders", record={})
    producer = Producer(redis, DataConverter.default, namespace=QUEUE.namespace)
    await producer.append(Submission(queue=QUEUE.name, requests=[request]))
    return await producer.append(Submission(queue=QUEUE.name, requests=[request], unless_dead=True))


async def serve_as_batchers_and_operators_do(redis: Redis) -> None:
    """Do with Redis all that batcher and commands do."""
    await redis.ping()
    store, queue, letters = (
        ContractStore(redis, QUEUE),
        WriteQueue(redis, QUEUE, 0, reader=redis),
        DeadLetters(redis, QUEUE, 0),
    )
    await store.announce("one", TERMS)
    assert await store.known_partitions() == 1
    assert await store.live_workers() == ["one"]
    await append(queue, "a")
    await append(queue, "b")
    await queue.append_flush()
    [first, second, flush] = await take(queue)
    assert await queue.read_new(after=flush.entry_id, count=1, max_bytes=1, block=BLOCK) == []
    assert len(await redelivered(queue)) == 3
    await queue.begin_alone(first)
    assert await queue.deaths_alone(first) == 1
    await queue.end_alone(first)
    await queue.mark_held({first.entry_id: HeldMark(request_id="a", reason="locked", since_ms=1)})
    assert len(await queue.held()) == 1
    await queue.unmark_held([first.entry_id])
    assert await queue.give_order(first.entry_id, Order.REJECT)
    assert len(await queue.orders()) == 1
    await queue.withdraw_orders([first.entry_id])
    assert await queue.entry(first.entry_id) == first
    for entry in (first, second):
        await die(queue, entry)
    letter, other = await letters.page()
    assert await letters.get(letter.dead_id) == letter
    assert await letters.last_id() == other.dead_id
    assert await letters.replay(letter)
    assert await letters.queued_again(letter)
    assert await letters.discard(other)
    assert await queue.trim_dead_letters(retention=timedelta(0)) == 0
    await queue.count({"batches": 1})
    assert (await queue.statistics()).backlog == 2
    await store.set_live({"pace": 10.0}, unset=["max_items"])
    assert await queue.next_turn(pace=10.0, max_rate=None, partitions=1, asks=True, rows=0) == 0.0
    assert await queue.may_probe(BLOCK)
    await queue.note_target(TargetState.BACK, BLOCK)
    assert await queue.is_unread()
    assert await queue.may_wake(BLOCK)
    await queue.note_reader(BLOCK)
    await queue.forget_reader()
    await queue.acknowledge(as_written(await all_entries(queue)))
    await store.leave("one")


async def test_each_login_can_do_its_work(caller: Redis, batcher: Redis) -> None:
    await serve_as_batchers_and_operators_do(batcher)
    [answer] = await append_as_callers_do(caller)
    assert answer.entry
    await ContractStore(batcher, QUEUE).forget()


@pytest.mark.parametrize("server", [RedisKind.REDIS7], indirect=True)
@pytest.mark.parametrize("login", list(Login))
async def test_every_right_of_a_login_is_used(server: AnyRedis, batcher: Redis, caller: Redis, login: Login) -> None:
    await ContractStore(batcher, QUEUE).announce("one", TERMS)
    await tell_all(server, "SCRIPT FLUSH")  # so that the login has to send them
    await tell_all(server, "CONFIG RESETSTAT")
    if login is Login.CALLER:
        await append_as_callers_do(caller)
    else:
        await serve_as_batchers_and_operators_do(batcher)
        await ContractStore(batcher, QUEUE).forget()
    [statistics] = await tell_all(server, "INFO", "commandstats")
    used = {command.removeprefix("cmdstat_") for command, seen in statistics.items() if seen["calls"]}
    assert {word[1:] for word in acl(login) if word.startswith("+")} <= used


async def test_callers_can_neither_take_requests_nor_give_orders(caller: Redis, batcher: Redis) -> None:
    theirs, letters = WriteQueue(batcher, QUEUE, 0), DeadLetters(caller, QUEUE, 0)
    await ContractStore(batcher, QUEUE).announce("one", TERMS)
    await append(theirs, "a")
    await append(theirs, "b")
    first, second = await take(theirs)
    await die(theirs, second)
    [letter] = await DeadLetters(batcher, QUEUE, 0).page()
    ours, contract = WriteQueue(caller, QUEUE, 0, reader=caller), ContractStore(caller, QUEUE)
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: ours.read_new(after="0", count=1, max_bytes=MAX_BYTES),
        lambda: redelivered(ours),
        lambda: ours.acknowledge(as_written([first])),
        lambda: die(ours, first),
        lambda: ours.trim_dead_letters(retention=timedelta(0)),
        lambda: ours.begin_alone(first),
        lambda: ours.give_order(first.entry_id, Order.REJECT),
        lambda: ours.mark_held({first.entry_id: HeldMark(request_id="a", reason="", since_ms=1)}),
        lambda: ours.orders(),
        lambda: letters.replay(letter),
        lambda: letters.discard(letter),
        lambda: contract.announce("two", TERMS),
        lambda: contract.forget(),
    ]
    for attempt in attempts:
        with pytest.raises(QueueUnavailable, match=NO_PERMISSION):
            await attempt()
    statistics = await theirs.statistics()
    assert (statistics.backlog, statistics.pending, statistics.dead) == (1, 1, 1)


@pytest.mark.parametrize("server", [RedisKind.VALKEY, RedisKind.REDIS6], indirect=True)
async def test_login_for_one_namespace_has_no_other(server: AnyRedis, batcher: Redis) -> None:
    rights = [
        word.replace(":{*}:", ":{production/*}:").replace(":*:contract", ":production/*:contract")
        for word in acl(Login.CALLER)
    ]
    await tell_all(server, "ACL SETUSER", "tenant", *rights[1:])
    production, staging = queue_ref("orders", "production"), queue_ref("orders", "staging")
    for queue in (production, staging):
        await ContractStore(batcher, queue).announce("one", TERMS)
    url = limited_url(server).replace(f"//{Login.BATCHER}:", "//tenant:")
    async with connect(url) as tenant:
        assert await ContractStore(tenant, production).read()
        assert (await append(WriteQueue(tenant, production, 0), "a")).entry_id
        with pytest.raises(QueueForbidden, match=NO_PERMISSION):
            await ContractStore(tenant, staging).read()
        with pytest.raises(QueueForbidden, match=NO_PERMISSION):
            await append(WriteQueue(tenant, staging, 0), "a")


@pytest.mark.parametrize("server", [RedisKind.VALKEY, RedisKind.REDIS7], indirect=True)
async def test_callers_who_may_only_read_the_contract_cannot_overwrite_it(server: AnyRedis, batcher: Redis) -> None:
    rights = [word.replace("~write-batcher:*:contract", "%R~write-batcher:*:contract") for word in acl(Login.CALLER)]
    await tell_all(server, "ACL SETUSER", "reader", *rights[1:])
    store = ContractStore(batcher, QUEUE)
    await store.announce("one", TERMS)
    async with connect(limited_url(server).replace(f"//{Login.BATCHER}:", "//reader:")) as reader:
        [answer] = await append_as_callers_do(reader)
        assert answer.entry
        with pytest.raises(Exception, match=NO_PERMISSION):
            await reader.hset(store.key, "forged", "{}")
    assert ids_of(await all_entries(WriteQueue(batcher, QUEUE, 0))) == ["a"]
