"""Many who append at once through one client."""

import asyncio

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from tests.support.partitions import TERMS, queue_ref
from write_batcher.models import Submission, WriteRequest
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.producer import Producer
from write_batcher.queue.redis_client import MAX_CONNECTIONS


async def test_callers_who_append_without_a_pause_leave_connections_to_others(redis: Redis, name: str) -> None:
    queue = queue_ref(name)
    await ContractStore(redis, queue).announce("one", TERMS)
    producer = Producer(redis, DataConverter.default, namespace=queue.namespace)
    appended = dict.fromkeys(range(MAX_CONNECTIONS + 16), 0)
    others_had = []

    async def append_often(caller: int) -> None:
        for number in range(100):
            request = WriteRequest(request_id=f"{caller}-{number}", table="orders", record={})
            await producer.append(Submission(queue=queue.name, requests=[request]))
            appended[caller] += 1
        others_had.append(min(appended.values()))

    await asyncio.gather(*map(append_often, appended))
    assert others_had[0] > 0
