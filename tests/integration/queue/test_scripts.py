"""The scripts on every kind of server that differs in how it runs them."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.support.partitions import as_written, fields, state_of, take
from tests.support.redis_kinds import AnyRedis, RedisKind, redis_of
from tests.unit.test_contract import ContractScripts
from tests.unit.test_dead_letter_scripts import DeadLetterScripts
from tests.unit.test_mark_scripts import MarkScripts
from tests.unit.test_stream_scripts import StreamScripts
from tests.unit.test_turn_script import TurnScript
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue

KINDS = [RedisKind.VALKEY, RedisKind.REDIS6, RedisKind.REDIS7, RedisKind.CLUSTER]


@pytest.fixture(scope="module", params=KINDS)
async def script_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AnyRedis]:
    async with redis_of(request.param, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def redis(script_server: AnyRedis) -> AsyncIterator[Redis]:
    async with connect(script_server.url) as client:
        yield client


class TestStream(StreamScripts):
    async def test_largest_batch_is_read_and_acknowledged_in_one_step_each(self, queue: WriteQueue) -> None:
        for start in range(0, 10_000, 500):
            some = [fields(str(number)) for number in range(start, start + 500)]
            await queue.append_all(some, max_backlog=10_000)
        entries = await take(queue, count=10_000)
        assert await queue.acknowledge(as_written(entries)) == 10_000
        assert await state_of(queue) == (0, 0, 0)


class TestDeadLetters(DeadLetterScripts):
    pass


class TestMarks(MarkScripts):
    pass


class TestContract(ContractScripts):
    pass


class TestTurns(TurnScript):
    pass
