"""Moving a queue to another database."""

import pytest

from tests.support.operated_queue import OperatedQueue
from write_batcher.queue.contract import ContractStore
from write_batcher.workers.operating.host import HostState


@pytest.fixture
def store(queue: OperatedQueue) -> ContractStore:
    return ContractStore(queue.redis, queue.ref)


async def test_move_forgets_the_sink_in_redis_and_in_temporal(queue: OperatedQueue, store: ContractStore) -> None:
    await queue.announce()
    await store.leave("the test's worker")
    await queue.start_batcher()
    status, output, errors = await queue.command("queue", "move")
    assert (status, errors) == (0, "")
    assert output == f"{queue.name}: belongs to no sink any more; the next batcher that starts decides\n"
    assert await store.read() is None
    await queue.announce()
    host = (await queue.view()).host
    assert (host.state, host.closed_as) == (HostState.NOT_RUNNING, "terminated")


async def test_move_of_a_queue_that_redis_has_lost_ends_its_batcher(queue: OperatedQueue) -> None:
    await queue.start_batcher()
    status, _, errors = await queue.command("queue", "move")
    assert (status, errors) == (0, "")
    status, _, errors = await queue.command("queue", "move")
    assert (status, "belongs to no sink in namespace 'default'" in errors) == (1, True)


async def test_move_refuses_while_a_batcher_lives_or_requests_wait(queue: OperatedQueue, store: ContractStore) -> None:
    await queue.announce()
    status, _, errors = await queue.command("queue", "move")
    assert (status, "has running batcher workers (the test's worker): stop them" in errors) == (1, True)
    await store.leave("the test's worker")
    await queue.append("waits")
    status, _, errors = await queue.command("queue", "move")
    assert (status, f"Requests wait in queue '{queue.name}' (1)" in errors) == (1, True)
    assert await store.read()
