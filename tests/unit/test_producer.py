"""What is appended, what is refused for good or for now, and what is told about it."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec

from tests.support.partitions import TERMS, all_entries, die, ids_of, queue_ref, take
from tests.support.virtual_time import now, on_virtual_time
from write_batcher.errors import CodecUnavailable, QueueUnavailable
from write_batcher.models import Appended, ReplyAddress, Submission, WriteRequest
from write_batcher.queue import producer as producer_module
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.producer import ENCODE_LIMIT, ENCODED_AT_ONCE, TABLE_APPEARS_WITHIN, Producer
from write_batcher.queue.routing import partition_of
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream import WriteQueue

QUEUE = queue_ref("orders")
REPLY = ReplyAddress(workflow_id="order-7", run_id="run-1", attempt="a-1")


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    async with FakeAsyncRedis(protocol=2) as client:
        yield client


@pytest.fixture
async def store(redis: Redis) -> ContractStore:
    """The contract of the queue, which is announced."""
    store = ContractStore(redis, QUEUE)
    await store.announce("one", TERMS)
    return store


def producer(
    redis: Redis, converter: DataConverter = DataConverter.default, *, signing_key: str | None = None
) -> Producer:
    return Producer(redis, converter, namespace=QUEUE.namespace, signing_key=signing_key)


def request(request_id: str = "a", *, table: str = "orders", key: str = "", record: Any = None) -> WriteRequest:
    record = {"cents": 1} if record is None else record
    return WriteRequest(request_id=request_id, key=key, table=table, record=record, reply=REPLY, asked_ms=1)


def submission(*requests: WriteRequest, **options: Any) -> Submission:
    return Submission(queue="orders", requests=list(requests), **options)


async def queued(redis: Redis, partition: int = 0) -> list[str]:
    return ids_of(await all_entries(WriteQueue(redis, QUEUE, partition)))


class PickyCodec(PayloadCodec):
    """Cannot encode what contains `bad`."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        for payload in payloads:
            if b"bad" in payload.data:
                raise ValueError("the key server answered with HTML")
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)


PICKY = dataclasses.replace(DataConverter.default, payload_codec=PickyCodec())


class HangingCodec(PickyCodec):
    """Gets no answer about what contains `hang`."""

    def __init__(self) -> None:
        self.asked = 0
        self.hanging = 0

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if any(b"hang" in payload.data for payload in payloads):
            self.asked += 1
            self.hanging += 1
            try:
                await self.hang()
            finally:
                self.hanging -= 1
        return list(payloads)

    async def hang(self) -> None:
        await asyncio.sleep(3600)


class StubbornCodec(HangingCodec):
    """Goes on hanging when it is cancelled."""

    async def hang(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await super().hang()
        await super().hang()


HANGS = {"text": "hang"}


@contextlib.asynccontextmanager
async def hanging_producer(codec: HangingCodec) -> AsyncIterator[tuple[Producer, Redis]]:
    """A producer on the loop of a test on virtual time, whose queue is announced."""
    async with FakeAsyncRedis(protocol=2) as redis:
        await ContractStore(redis, QUEUE).announce("one", TERMS)
        yield producer(redis, dataclasses.replace(DataConverter.default, payload_codec=codec)), redis


@pytest.mark.usefixtures("store")
async def test_requests_are_appended_in_order_and_answered_with_their_entries(redis: Redis) -> None:
    answers = await producer(redis).append(submission(request("a"), request("b"), request("a")))
    first, second = await all_entries(WriteQueue(redis, QUEUE, 0))
    entries = [f"0/{entry.entry_id}" for entry in (first, second, first)]
    assert answers == [Appended(entry=entry) for entry in entries]
    assert await producer(redis).append(submission(request("a"), request("b"), request("a"))) == answers


async def test_request_goes_to_the_partition_of_its_key(redis: Redis) -> None:
    await ContractStore(redis, QUEUE).announce("one", dataclasses.replace(TERMS, partitions=4))
    requests = [request(str(number), key=f"customer-{number % 5}") for number in range(20)]
    answers = await producer(redis).append(submission(*requests, request("without a key")))
    partitions = [partition_of(request.key, 4) for request in requests] + [partition_of("without a key", 4)]
    assert [answer.entry and answer.entry.split("/")[0] for answer in answers] == [str(one) for one in partitions]
    for partition in range(4):
        expected = [one.request_id for one in requests if partition_of(one.key, 4) == partition]
        assert [one for one in await queued(redis, partition) if one != "without a key"] == expected


async def test_queue_without_a_batcher_refuses_for_now_and_says_what_to_do(redis: Redis) -> None:
    [answer] = await producer(redis).append(submission(request()))
    assert (answer.entry, answer.later) == (None, True)
    assert answer.refused == (
        "Queue 'orders' has no batcher yet: start one with `write-batcher worker batcher --queue orders`, "
        "or correct the name."
    )


@pytest.mark.usefixtures("store")
async def test_batcher_of_another_namespace_does_not_count(redis: Redis) -> None:
    staging = Producer(redis, DataConverter.default, namespace="staging")
    [answer] = await staging.append(submission(request()))
    assert answer.later
    assert await queued(redis) == []


@pytest.mark.usefixtures("store")
async def test_unknown_table_is_refused_for_now_and_after_a_minute_for_good(redis: Redis) -> None:
    mistyped = submission(request("a", table="ordres"), request("b"))
    answer, other = await producer(redis).append(mistyped)
    assert answer == Appended(
        refused="Queue 'orders' has no table 'ordres', but orders: correct the name, or start a batcher with the table "
        "(WRITE_BATCHER_TABLES).",
        later=True,
    )
    assert other.entry
    [answer, _] = await producer(redis).append(mistyped, waited=TABLE_APPEARS_WITHIN)
    assert not answer.later


async def test_sink_of_any_table_takes_every_table(redis: Redis) -> None:
    await ContractStore(redis, QUEUE).announce("one", dataclasses.replace(TERMS, tables={}))
    [answer] = await producer(redis).append(submission(request(table="anything")))
    assert answer.entry


async def test_table_of_a_later_deploy_is_accepted_once_its_batcher_is_there(
    redis: Redis, store: ContractStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "CONTRACT_IS_KNOWN_FOR", timedelta(0))
    caller = producer(redis)
    [answer] = await caller.append(submission(request(table="audits")))
    assert answer.later
    await store.announce("two", dataclasses.replace(TERMS, tables={"audits": "insert"}))
    [answer] = await caller.append(submission(request(table="audits")))
    assert answer.entry


async def test_contract_is_read_once_in_two_seconds(redis: Redis, store: ContractStore) -> None:
    caller = producer(redis)
    await caller.append(submission(request("a")))
    await store.forget()
    [known, fresh] = [await one.append(submission(request("b"))) for one in (caller, producer(redis))]
    assert (known[0].entry is not None, fresh[0].later) == (True, True)


@pytest.mark.usefixtures("store")
async def test_confirm_timeout_must_be_above_max_wait_and_both_are_named(redis: Redis) -> None:
    [answer] = await producer(redis).append(submission(request(), confirm_timeout_ms=20_000))
    assert answer == Appended(
        refused="confirm_timeout is 20 s, and a batch may stay open for max_wait, 20 s: raise confirm_timeout above "
        "max_wait, or lower the batcher's WRITE_BATCHER_MAX_WAIT."
    )
    for confirm_timeout_ms in (20_001, None):
        [answer] = await producer(redis).append(submission(request(), confirm_timeout_ms=confirm_timeout_ms))
        assert answer.entry


@pytest.mark.usefixtures("store")
async def test_too_large_request_is_refused_with_the_limit_and_whose_it_is(redis: Redis) -> None:
    answer, other = await producer(redis).append(submission(request("a", record={"text": "x" * 10_000}), request("b")))
    assert (answer.later, other.entry is not None) == (False, True)
    assert str(answer.refused).startswith("Request 'a' has 10")
    assert str(answer.refused).endswith(
        "the limit is 10000: store large data elsewhere and write its address, or raise the batcher's "
        "WRITE_BATCHER_MAX_REQUEST_BYTES."
    )


@pytest.mark.usefixtures("store")
async def test_record_that_is_no_json_is_refused_for_good_and_costs_the_others_nothing(redis: Redis) -> None:
    answer, other = await producer(redis).append(submission(request("a", record={"x": float("nan")}), request("b")))
    assert (answer.later, other.entry is not None) == (False, True)
    assert "'a' cannot be encoded" in str(answer.refused)


async def test_full_stream_refuses_for_now_with_its_limit(redis: Redis) -> None:
    await ContractStore(redis, QUEUE).announce("one", dataclasses.replace(TERMS, max_backlog=1))
    first, second = await producer(redis).append(submission(request("a"), request("b")))
    assert (first.entry is not None, second.later) == (True, True)
    assert "holds 1 entries, the limit is 1 (WRITE_BATCHER_MAX_BACKLOG" in str(second.refused)


@pytest.mark.usefixtures("store")
async def test_request_that_is_a_dead_letter_stays_one_when_it_should(redis: Redis) -> None:
    await producer(redis).append(submission(request()))
    stream = WriteQueue(redis, QUEUE, 0)
    await die(stream, *await take(stream))
    assert await producer(redis).append(submission(request(), unless_dead=True)) == [Appended(dead=True)]
    [answer] = await producer(redis).append(submission(request()))
    assert answer.entry


@pytest.mark.usefixtures("store")
async def test_codec_that_fails_blames_no_record(redis: Redis) -> None:
    bad = request("a", record={"text": "bad"})
    with pytest.raises(CodecUnavailable, match=r"'a' cannot be encoded now: ValueError\('the key server answered"):
        await producer(redis, PICKY).append(submission(bad))


@pytest.mark.usefixtures("store")
async def test_record_that_the_codec_fails_for_costs_the_others_nothing(redis: Redis) -> None:
    answer, other = await producer(redis, PICKY).append(submission(request("a", record={"text": "bad"}), request("b")))
    assert (answer.later, answer.certain, other.entry is not None) == (True, True, True)
    assert await queued(redis) == ["b"]


@on_virtual_time
async def test_record_that_the_codec_hangs_for_keeps_no_other_from_being_appended() -> None:
    async with hanging_producer(codec := HangingCodec()) as (caller, redis):
        requests = [request(str(number), record=HANGS if number == 3 else None) for number in range(10)]
        began = now()
        answers = await caller.append(submission(*requests))
        assert now() - began <= ENCODE_LIMIT.total_seconds()
        assert answers.pop(3) == Appended(
            refused="The record of request '3' cannot be encoded now: the payload codec gave no answer for it within "
            "5 s.",
            later=True,
        )
        assert all(answer.entry for answer in answers)
        assert await queued(redis) == ["0", "1", "2", "4", "5", "6", "7", "8", "9"]
        await asyncio.sleep(1)
        assert codec.hanging == 0


@on_virtual_time
async def test_codec_that_hangs_for_every_record_is_unavailable_within_one_limit() -> None:
    async with hanging_producer(codec := HangingCodec()) as (caller, redis):
        requests = [request(str(number), record=HANGS) for number in range(500)]
        for tries in (1, 2):
            began = now()
            with pytest.raises(CodecUnavailable, match="gave no answer for it within 5 s"):
                await caller.append(submission(*requests))
            assert now() - began <= ENCODE_LIMIT.total_seconds()
            await asyncio.sleep(1)
            assert (codec.asked, codec.hanging) == (tries * ENCODED_AT_ONCE, 0)
        assert await queued(redis) == []


@on_virtual_time
async def test_codec_that_ignores_its_cancellation_holds_up_nobody() -> None:
    async with hanging_producer(StubbornCodec()) as (caller, redis):
        began = now()
        answer, _ = await caller.append(submission(request("a", record=HANGS), request("b")))
        assert now() - began <= ENCODE_LIMIT.total_seconds()
        assert (answer.later, await queued(redis)) == (True, ["b"])


@on_virtual_time
async def test_interrupted_append_leaves_nobody_asking_the_codec() -> None:
    async with hanging_producer(codec := HangingCodec()) as (caller, _):
        appending = asyncio.create_task(caller.append(submission(request("a", record=HANGS), request("b"))))
        await asyncio.sleep(1)
        assert codec.hanging == 1
        appending.cancel()
        await asyncio.wait({appending})
        await asyncio.sleep(1)
        assert codec.hanging == 0


@pytest.mark.usefixtures("store")
async def test_entries_are_signed_when_there_is_a_key(redis: Redis) -> None:
    await producer(redis, signing_key="secret").append(submission(request("a")))
    await producer(redis).append(submission(request("b")))
    signed, unsigned = await all_entries(WriteQueue(redis, QUEUE, 0))
    assert [Signer("secret", QUEUE).accepts(entry.fields) for entry in (signed, unsigned)] == [True, False]


async def test_unreachable_redis_makes_the_queue_unavailable() -> None:
    async with FakeAsyncRedis(connected=False) as client:
        with pytest.raises(QueueUnavailable):
            await producer(client).append(submission(request()))
