"""What an operator orders about one queued request: reject it, or try it again at once. The drain carries it out."""

import asyncio
from datetime import timedelta

from redis.asyncio import Redis
from temporalio.client import Client

from write_batcher.errors import OperationFailed
from write_batcher.models import PartitionRef, QueueRef
from write_batcher.queue.dead_letters import DeadLetter, DeadLetters
from write_batcher.queue.marks import Order
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.operating.control import advice
from write_batcher.workers.operating.host import Hosts
from write_batcher.workers.operating.known_partitions import partitions_of
from write_batcher.workers.operating.stream_ids import EntryId, LetterId

CARRIED_OUT_WITHIN = timedelta(seconds=30)  # the drain looks for orders every second, unless it is busy or away
LOOK_EVERY = timedelta(milliseconds=200)


class Orders:
    """Gives orders about the requests of one queue, in the namespace of the client, and says what became of them."""

    def __init__(self, client: Client, redis: Redis, queue: str) -> None:
        self._hosts = Hosts(client)
        self._redis = redis
        self._queue = QueueRef(namespace=client.namespace, name=queue)

    async def reject(self, entry_id: EntryId, reason: str) -> str:
        """Have the request rejected, and return the id of its dead letter in a few words.

        Raises `OperationFailed` when it is not queued, when it was written or settled before, and when the drain has
        not carried it out within 30 seconds; then the order stays.
        """
        letter = await self._carry_out(entry_id, Order.REJECT, reason)
        if letter is None:
            raise OperationFailed(
                f"Request {entry_id} is no longer queued, and was not rejected: it has been written or withdrawn in "
                "the meantime."
            )
        return f"rejected; it is dead letter {LetterId.at(entry_id.partition, letter.dead_id)} now"

    async def release(self, entry_id: EntryId) -> str:
        """Have a held request tried at once, and return what came of it in a few words.

        Raises `OperationFailed` when it is not queued, when it is held again, and when the drain has not carried it out
        within 30 seconds; then the order stays.
        """
        letter = await self._carry_out(entry_id, Order.RELEASE, "")
        if letter is None:
            return "tried; it is decided and no longer queued"
        name = LetterId.at(entry_id.partition, letter.dead_id)
        return f"tried and refused; it is dead letter {name} now: {letter.reason}"

    async def _carry_out(self, entry_id: EntryId, order: Order, reason: str) -> DeadLetter | None:
        """Give the order and wait until the request is gone; returns its dead letter, if it has become one."""
        known = await partitions_of(self._redis, self._queue)
        if entry_id.partition >= len(known):
            raise _not_queued(entry_id)
        partition = known[entry_id.partition]
        stream = WriteQueue(self._redis, self._queue, entry_id.partition)
        given_ms = await stream.now_ms()
        if not await stream.give_order(entry_id.redis_id, order, reason):
            raise _not_queued(entry_id)
        give_up = asyncio.get_running_loop().time() + CARRIED_OUT_WITHIN.total_seconds()
        while await stream.entry(entry_id.redis_id) is not None:
            if entry_id.redis_id not in await stream.orders():
                await self._raise_if_it_stays(stream, entry_id)
            elif asyncio.get_running_loop().time() > give_up:
                await self._raise_not_carried_out(partition, entry_id, order)
            await asyncio.sleep(LOOK_EVERY.total_seconds())
        return await self._letter_of(entry_id, since_ms=given_ms)

    async def _raise_if_it_stays(self, stream: WriteQueue, entry_id: EntryId) -> None:
        if await stream.entry(entry_id.redis_id) is None:
            return
        mark = (await stream.held()).get(entry_id.redis_id)
        raise OperationFailed(
            f"Request {entry_id} is still held: {mark.reason.rstrip('.')}."
            if mark
            else f"Request {entry_id} is not held: it is written in its turn."
        )

    async def _raise_not_carried_out(self, partition: PartitionRef, entry_id: EntryId, order: Order) -> None:
        host = await self._hosts.look(partition)
        raise OperationFailed(
            f"The order to {order.value} request {entry_id} has not been carried out within "
            f"{CARRIED_OUT_WITHIN.total_seconds():g}s: its batcher is {host.state.value}. {advice(partition, host)}"
        )

    async def _letter_of(self, entry_id: EntryId, *, since_ms: int) -> DeadLetter | None:
        letters = DeadLetters(self._redis, self._queue, entry_id.partition)
        after = f"{since_ms - 1}-0"
        while page := await letters.page(after=after):
            for letter in page:
                if letter.entry_id == entry_id.redis_id:
                    return letter
            after = page[-1].dead_id
        return None


def _not_queued(entry_id: EntryId) -> OperationFailed:
    return OperationFailed(f"There is no request {entry_id}: `{EntryId.LISTED_BY}` shows those that wait.")
