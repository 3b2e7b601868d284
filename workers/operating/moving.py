"""Moving a queue to another sink: an empty queue without batchers forgets where it was written to."""

from redis.asyncio import Redis
from temporalio.client import Client

from write_batcher.errors import OperationFailed
from write_batcher.models import PartitionRef, QueueRef
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.operating.host import Hosts, HostState


async def move_queue(client: Client, redis: Redis, name: str) -> str:
    """Forget the contract of a queue, end its batcher workflows, and return what that means: the next batcher that
    starts decides about the sink.

    Raises `OperationFailed` when the queue belongs to no sink, when a batcher worker of it lives, and when requests
    wait in it: the old sink may have written some of them, and the new one would write them again. Raises
    `QueueUnavailable` when Redis cannot be asked.
    """
    queue = QueueRef(namespace=client.namespace, name=name)
    store = ContractStore(redis, queue)
    if workers := await store.live_workers():
        raise OperationFailed(
            f"Queue {name!r} has running batcher workers ({', '.join(sorted(workers))}): stop them. One that was "
            "killed counts as running for 30 s."
        )
    known = await store.known_partitions()
    everything = [await WriteQueue(redis, queue, number).statistics() for number in range(known)]
    if backlog := sum(one.backlog for one in everything):
        raise OperationFailed(
            f"Requests wait in queue {name!r} ({backlog}), and some may have been written already: let its batcher "
            f"finish them first. `write-batcher queue list --queue {name}` shows them."
        )
    contract = await store.read()
    ended = await _end_batchers(Hosts(client), name, known)
    if contract is None and not ended:
        raise OperationFailed(
            f"Queue {name!r} belongs to no sink in namespace {queue.namespace!r}: the next batcher that starts decides."
        )
    await store.forget()
    dead = sum(one.dead for one in everything)
    letters = f"; its {dead} dead letters stay" if dead else ""
    return f"belongs to no sink any more; the next batcher that starts decides{letters}"


async def _end_batchers(hosts: Hosts, name: str, known: int) -> int:
    """Terminate the batcher workflows, because they remember the sink as well; returns how many ran. Redis may have
    lost the queue, and know of fewer partitions.
    """
    ended, number = 0, 0
    while True:
        partition = PartitionRef(queue=name, partition=number)
        if (await hosts.look(partition)).state is not HostState.NOT_RUNNING:
            await hosts.end(partition, "the queue is moved to another sink")
            ended += 1
        elif number >= known:
            return ended
        number += 1
