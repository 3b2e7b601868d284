"""The contract of a queue. `integration/queue/test_scripts.py` runs the suite on real servers."""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from tests.support.partitions import TERMS, append, die, queue_ref, take
from write_batcher.config import load_settings
from write_batcher.errors import ConfigurationError, QueueUnavailable, WrongSink
from write_batcher.queue.contract import (
    MAX_PARTITIONS,
    SILENT_WORKER_IS_GONE_AFTER,
    Contract,
    ContractStore,
)
from write_batcher.queue.stream import WriteQueue

OTHER_SINK = replace(TERMS, sink_id="sink-2")


class ContractScripts:
    @pytest.fixture
    def store(self, redis: Redis, name: str) -> ContractStore:
        return ContractStore(redis, queue_ref(name))

    async def make_silent(self, redis: Redis, store: ContractStore, worker: str) -> None:
        """Have the worker announced as if it had died long ago."""
        stored: Any = await redis.hget(store.key, worker)
        announced = json.loads(stored)
        announced["seen_ms"] -= SILENT_WORKER_IS_GONE_AFTER.total_seconds() * 1000 + 1000
        announced["seen_ms"] = int(announced["seen_ms"])
        await redis.hset(store.key, worker, json.dumps(announced))

    async def test_queue_without_a_batcher_has_no_contract(self, store: ContractStore) -> None:
        assert await store.read() is None
        assert await store.live_workers() == []
        assert await store.known_partitions() == 0

    async def test_announced_terms_are_read_by_everybody(self, store: ContractStore) -> None:
        announced = await store.announce("one", TERMS)
        assert announced == await store.read() == Contract(**asdict(TERMS))
        assert await store.live_workers() == ["one"]

    async def test_worker_that_started_last_decides_and_all_tables_count(self, store: ContractStore) -> None:
        await store.announce("old", replace(TERMS, tables={"orders": "insert", "audits": "insert"}, partitions=4))
        newer = replace(TERMS, tables={"orders": "upsert", "clicks": "insert"}, partitions=2)
        announced = await store.announce("new", newer)
        again = await store.announce("old", replace(TERMS, tables={"orders": "insert", "audits": "insert"}))
        assert announced == again == await store.read()
        assert again.partitions == 2
        assert again.tables == {"orders": "upsert", "audits": "insert", "clicks": "insert"}

    async def test_what_an_operator_sets_holds_for_all_workers_until_it_is_unset(self, store: ContractStore) -> None:
        await store.announce("one", replace(TERMS, pace=10.0))
        await store.set_live({"pace": 50.0, "max_items": 500})
        await store.set_live({"max_rate": None})
        announced = await store.announce("two", replace(TERMS, pace=20.0, max_rate=5.0))
        assert announced == await store.read()
        assert (announced.pace, announced.max_rate, announced.max_items) == (50.0, None, 500)
        assert announced.set_live == {"pace": 50.0, "max_rate": None, "max_items": 500}
        await store.set_live({}, unset=["pace", "max_items", "max_wait_ms"])
        contract = await store.read()
        assert contract is not None
        assert (contract.pace, contract.max_items, contract.set_live) == (20.0, TERMS.max_items, {"max_rate": None})

    async def test_what_an_operator_sets_outlives_the_workers(self, store: ContractStore) -> None:
        await store.announce("one", TERMS)
        await store.set_live({"max_wait_ms": 500})
        await store.leave("one")
        contract = await store.read()
        assert contract is not None
        assert (contract.max_wait_ms, await store.live_workers()) == (500, [])

    @pytest.mark.parametrize("text", ["", "x", "0", "-1", "NaN", "Infinity", "1e999", "[]", '"5"', "\ud800"])
    async def test_what_nobody_can_have_set_is_ignored(self, redis: Redis, store: ContractStore, text: str) -> None:
        await store.announce("one", TERMS)
        for name in ("pace", "max_items"):
            await redis.hset(store.key, f"set:{name}", text.encode(errors="surrogatepass"))
        assert await store.read() == await store.announce("one", TERMS) == Contract(**asdict(TERMS))

    async def test_worker_that_started_last_decides_also_after_the_clock_was_set_back(
        self, redis: Redis, store: ContractStore
    ) -> None:
        await store.announce("old", TERMS)
        stored: Any = await redis.hget(store.key, "old")
        later = json.loads(stored) | {"started_ms": json.loads(stored)["started_ms"] + 3_600_000}
        await redis.hset(store.key, "old", json.dumps(later))
        for _ in range(2):
            assert (await store.announce("new", replace(TERMS, partitions=5))).partitions == 5
            assert (await store.announce("old", TERMS)).partitions == 5

    async def test_worker_with_another_sink_is_refused_and_both_are_named(self, store: ContractStore) -> None:
        await store.announce("one", TERMS)
        with pytest.raises(
            WrongSink, match=r"is written to the sink 'sink-1', and this worker writes to the sink 'sink-2'"
        ):
            await store.announce("two", OTHER_SINK)
        with pytest.raises(WrongSink, match="to a sink without an identity: give it the database"):
            await store.announce("two", replace(TERMS, sink_id=""))
        assert await store.live_workers() == ["one"]

    async def test_queue_keeps_its_sink_when_its_batchers_are_long_gone(
        self, redis: Redis, store: ContractStore
    ) -> None:
        await store.announce("one", TERMS)
        await store.leave("one")
        await self.make_silent(redis, store, "one")
        with pytest.raises(WrongSink):
            await store.announce("two", OTHER_SINK)

    async def test_forgotten_queue_takes_another_sink(self, store: ContractStore) -> None:
        await store.announce("one", TERMS)
        await store.forget()
        assert (await store.announce("two", OTHER_SINK)).sink_id == "sink-2"

    async def test_same_queue_name_in_another_namespace_has_its_own_contract(
        self, redis: Redis, store: ContractStore, name: str
    ) -> None:
        staging = ContractStore(redis, queue_ref(name, "staging"))
        await store.announce("one", TERMS)
        await staging.announce("two", OTHER_SINK)
        contracts = [await store.read(), await staging.read()]
        assert [contract and contract.sink_id for contract in contracts] == ["sink-1", "sink-2"]

    async def test_worker_that_left_is_forgotten_but_the_last_terms_stay(self, store: ContractStore) -> None:
        await store.announce("one", TERMS)
        await store.announce("two", replace(TERMS, partitions=3))
        await store.leave("two")
        contract = await store.read()
        assert contract == Contract(**asdict(TERMS))
        await store.leave("one")
        await store.leave("one")
        assert (await store.read(), await store.live_workers()) == (contract, [])

    async def test_silent_worker_is_forgotten_by_the_others(self, redis: Redis, store: ContractStore) -> None:
        await store.announce("dead", replace(TERMS, tables={"gone": "insert"}))
        await self.make_silent(redis, store, "dead")
        assert await store.live_workers() == []
        assert await store.read() == Contract(**asdict(replace(TERMS, tables={"gone": "insert"})))
        assert (await store.announce("one", TERMS)).tables == TERMS.tables
        assert await store.live_workers() == ["one"]

    async def test_lost_contract_is_announced_again(self, redis: Redis, store: ContractStore) -> None:
        before = await store.announce("one", TERMS)
        await redis.delete(store.key)
        assert await store.announce("one", TERMS) == before

    @pytest.mark.parametrize(
        "text",
        [
            b"\xff",
            b"[",
            b"[]",
            b"4",
            b'{"started_ms": 1}',
            b'{"started_ms": 1, "seen_ms": 1, "terms": {}}',
            b'{"started_ms": null, "seen_ms": 1, "terms": {"sink_id": "sink-1"}}',
            b'{"started_ms": 1, "seen_ms": "x", "terms": {"sink_id": "sink-2"}}',
            json.dumps({"started_ms": 1, "seen_ms": 1, "terms": {**asdict(TERMS), "partitions": 1001}}).encode(),
            json.dumps({"started_ms": 1, "seen_ms": 1, "terms": {**asdict(TERMS), "partitions": 0}}).encode(),
            json.dumps({"started_ms": 1, "seen_ms": 1, "terms": {**asdict(TERMS), "tables": "all"}}).encode(),
        ],
    )
    async def test_terms_that_nobody_announced_do_not_count(
        self, redis: Redis, store: ContractStore, text: bytes
    ) -> None:
        await redis.hset(store.key, "foreign", text)
        assert await store.read() is None
        assert await store.announce("one", TERMS) == Contract(**asdict(TERMS))
        assert await redis.hkeys(store.key) == [b"one"]

    async def test_members_that_a_later_version_adds_are_ignored(self, redis: Redis, store: ContractStore) -> None:
        later = {"version": 2, "started_ms": 1, "seen_ms": 1, "terms": {**asdict(TERMS), "colour": 10}, "since": "v2"}
        await redis.hset(store.key, "later", json.dumps(later))
        assert await store.read() == Contract(**asdict(TERMS))

    async def test_partitions_beyond_the_contract_are_known_while_they_hold_data(
        self, redis: Redis, store: ContractStore, name: str
    ) -> None:
        await store.announce("one", replace(TERMS, partitions=2))
        third = WriteQueue(redis, queue_ref(name), 2)
        await append(third, "a")
        assert await store.known_partitions() == 3
        await die(third, *await take(third))
        assert await store.known_partitions() == 3

    async def test_queue_that_lost_its_contract_is_known_by_its_data(
        self, redis: Redis, store: ContractStore, name: str
    ) -> None:
        await append(WriteQueue(redis, queue_ref(name), 0), "a")
        assert await store.known_partitions() == 1


class TestFakeRedis(ContractScripts):
    @pytest.fixture
    async def redis(self) -> AsyncIterator[Redis]:
        async with FakeAsyncRedis(protocol=2) as client:
            yield client


async def test_limit_of_partitions_is_that_of_the_setting() -> None:
    assert load_settings(partitions=MAX_PARTITIONS).partitions == MAX_PARTITIONS
    with pytest.raises(ConfigurationError):
        load_settings(partitions=MAX_PARTITIONS + 1)


def test_contract_key_names_namespace_and_queue() -> None:
    assert (
        ContractStore(FakeAsyncRedis(), queue_ref("orders", "prod/eu")).key == "write-batcher:prod%2Feu/orders:contract"
    )


async def test_unreachable_server_makes_the_contract_unavailable() -> None:
    async with FakeAsyncRedis(connected=False) as client:
        store = ContractStore(client, queue_ref("orders"))
        for call in (store.read(), store.announce("one", TERMS), store.leave("one"), store.live_workers()):
            with pytest.raises(QueueUnavailable):
                await call
