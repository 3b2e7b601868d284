"""Waking parked drains: the workers of a batcher watch its streams, so that an idle queue costs Temporal nothing."""

import asyncio
import logging
import math
from dataclasses import dataclass
from datetime import timedelta

from redis.asyncio import Redis

from write_batcher.activities.drain.backoff import Backoff
from write_batcher.errors import OperationFailed, QueueUnavailable
from write_batcher.models import PartitionRef, QueueRef
from write_batcher.queue.contract import ContractStore
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.operating.host import Hosts, HostState

LOOK_EVERY = timedelta(milliseconds=300)
COUNT_EVERY = timedelta(seconds=2)
LOOKS_AT_ONCE = 8  # partitions; the client has 32 connections to Redis
WAKE_LEASE = timedelta(seconds=1)  # of all workers, one asks Temporal
BACKOFF = Backoff(LOOK_EVERY.total_seconds(), 10.0)  # between two questions to Temporal

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """A partition, and when its workflow is to be asked at the earliest."""

    queue: WriteQueue
    partition: PartitionRef
    not_before: float = 0.0
    asked: int = 0
    """How often in a row that was in vain, or its drain is not there yet."""


class Waker:
    """Looks again and again for streams that have entries and no reader, and wakes the drains of those that are parked.

    Nothing is remembered of what has arrived: an entry that is there is seen, whoever appended it, whenever a worker
    looks.
    """

    def __init__(self, hosts: Hosts, redis: Redis, queue: QueueRef) -> None:
        self._hosts = hosts
        self._redis = redis
        self._queue = queue
        self._contracts = ContractStore(redis, queue)
        self._watched: list[_Watched] = []
        self._counted_at = -math.inf

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._count_partitions()
            for first in range(0, len(self._watched), LOOKS_AT_ONCE):
                await asyncio.gather(*map(self._look, self._watched[first : first + LOOKS_AT_ONCE]))
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def _count_partitions(self) -> None:
        """Watch all partitions, also those that only another worker knew of, and those that are left over."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_at < COUNT_EVERY.total_seconds():
            return
        try:
            known = await self._contracts.known_partitions()
        except QueueUnavailable as error:
            logger.debug("partitions of %s cannot be counted: %s", self._queue, error)
            return
        self._counted_at = now
        for number in range(len(self._watched), known):
            partition = PartitionRef(queue=self._queue.name, partition=number)
            self._watched.append(_Watched(queue=WriteQueue(self._redis, self._queue, number), partition=partition))

    async def _look(self, one: _Watched) -> None:
        try:
            await self._wake_if_unread(one)
        except (QueueUnavailable, OperationFailed) as error:
            logger.debug("%s cannot be watched: %s", one.partition, error)
        except Exception:  # whatever it is, the next look may succeed
            logger.warning("%s could not be watched", one.partition, exc_info=True)

    async def _wake_if_unread(self, one: _Watched) -> None:
        now = asyncio.get_running_loop().time()
        if not await one.queue.is_unread():
            one.not_before, one.asked = 0.0, 0
        elif now >= one.not_before and await one.queue.may_wake(WAKE_LEASE):
            # Between two drains, and while there is none because it was killed, paused or refused, the workflow is not
            # parked: it starts the next one by itself.
            if (await self._hosts.look(one.partition)).state is HostState.PARKED:
                logger.info("drain of %s is woken", one.partition)
                await self._hosts.wake(one.partition)
            one.asked += 1
            one.not_before = now + BACKOFF.delay(one.asked)
