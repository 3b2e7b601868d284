import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from tests.support.partitions import TERMS, queue_ref
from tests.support.waiting import eventually
from write_batcher.errors import QueueUnavailable, WrongSink
from write_batcher.queue import contract_keeper as keeper_module
from write_batcher.queue.contract import Contract, ContractStore, Terms
from write_batcher.queue.contract_keeper import ContractKeeper


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "ANNOUNCE_EVERY", timedelta(milliseconds=5))


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def redis(server: FakeServer) -> AsyncIterator[Redis]:
    async with FakeAsyncRedis(server=server, protocol=2) as client:
        yield client


@pytest.fixture
def store(redis: Redis) -> ContractStore:
    return ContractStore(redis, queue_ref("orders"))


@contextmanager
def running(keeper: ContractKeeper) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(keeper.run())
    try:
        yield task
    finally:
        task.cancel()


async def test_keeper_knows_its_own_terms_before_it_has_asked(store: ContractStore) -> None:
    keeper = ContractKeeper(store, "one", TERMS)
    assert keeper.contract == Contract.of_one(TERMS)
    assert await keeper.start() == keeper.contract == await store.read()


async def test_contract_that_redis_lost_is_announced_again(redis: Redis, store: ContractStore) -> None:
    keeper = ContractKeeper(store, "one", TERMS)
    await keeper.start()
    with running(keeper):
        await redis.flushall()
        await eventually(lambda: redis.exists(store.key))
    assert await store.read() == Contract(**asdict(TERMS))


async def test_keeper_learns_what_another_worker_announces(store: ContractStore) -> None:
    keeper = ContractKeeper(store, "one", TERMS)
    await keeper.start()
    with running(keeper):
        await store.announce("two", replace(TERMS, partitions=8))
        await eventually(lambda: keeper.contract.partitions == 8)


async def test_outage_is_logged_once_and_survived(
    server: FakeServer, store: ContractStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    announce, tries = store.announce, 0

    async def counted(worker: str, terms: Terms) -> Contract:
        nonlocal tries
        tries += 1
        return await announce(worker, terms)

    monkeypatch.setattr(store, "announce", counted)
    caplog.set_level(logging.INFO)
    keeper = ContractKeeper(store, "one", TERMS)
    await keeper.start()
    with running(keeper) as task:
        server.connected = False
        await eventually(lambda: tries > 5)
        server.connected = True
        await eventually(lambda: "is announced again" in caplog.text)
        assert not task.done()
    assert caplog.text.count("cannot be announced") == 1


async def test_keeper_ends_when_the_queue_went_to_another_sink(redis: Redis, store: ContractStore) -> None:
    keeper = ContractKeeper(store, "one", TERMS)
    await keeper.start()
    await store.forget()
    await store.announce("two", replace(TERMS, sink_id="sink-2"))
    with running(keeper) as task, pytest.raises(WrongSink):
        async with asyncio.timeout(5):
            await task


async def test_worker_does_not_start_without_redis_or_with_another_sink(
    server: FakeServer, store: ContractStore
) -> None:
    await store.announce("two", replace(TERMS, sink_id="sink-2"))
    with pytest.raises(WrongSink):
        await ContractKeeper(store, "one", TERMS).start()
    server.connected = False
    with pytest.raises(QueueUnavailable):
        await ContractKeeper(store, "one", TERMS).start()


async def test_leaving_takes_the_terms_back_or_gives_up(server: FakeServer, store: ContractStore) -> None:
    keeper = ContractKeeper(store, "one", TERMS)
    await keeper.start()
    await store.announce("two", TERMS)
    await keeper.leave()
    assert await store.live_workers() == ["two"]
    server.connected = False
    await keeper.leave()
