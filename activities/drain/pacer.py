"""When a transaction may begin and how large it may be: the pace of the queue, and what its target can bear."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from write_batcher.activities.drain.bell import Bell
from write_batcher.activities.drain.throttle import Throttle
from write_batcher.errors import QueueUnavailable
from write_batcher.queue.contract import Contract
from write_batcher.queue.stream import WriteQueue

STOPPED_WITHIN = timedelta(seconds=1)  # else a drain that is stopped leaves to the next one what waits for its turn
LOOK_EVERY = timedelta(seconds=1)  # whether the limits are others meanwhile
EARLY_S = 0.001  # that a timer may be

logger = logging.getLogger(__name__)

Limits = tuple[float | None, float | None]


class Pacer:
    """The turns of one drain. With a pace, the drains of a queue begin their transactions one after the other: each
    asks for a turn when there is something to write, and for the next one after that. With a target latency, this drain
    also looks at how long its transactions take.

    Without limits in the contract it is always this drain's turn, and nobody is asked.
    """

    def __init__(
        self, queue: WriteQueue, contract: Callable[[], Contract], bell: Bell, wanted: Callable[[], bool]
    ) -> None:
        """`wanted` tells whether there is something to write. Whoever changes that rings the bell."""
        self._queue = queue
        self._contract = contract
        self._bell = bell
        self._wanted = wanted
        self._waiting = False
        self._writer_waits = False
        self._turn_at: float | None = None  # by the loop's clock
        self._throttle: Throttle | None = None
        self._rest_until = 0.0
        self._rows = 0  # of transactions since the last exchange with Redis
        self._redis_is_away = False

    @property
    def may_write_early(self) -> bool:
        """Whether a batch may be written now though nothing has closed it: there is a pace, and the writer is free."""
        return self._contract().pace is not None and self._writer_waits and self.has_turn

    @property
    def has_turn(self) -> bool:
        """Whether a transaction may begin."""
        now = self._now() + EARLY_S
        if self._target_s() is not None and now < self._rest_until:
            return False
        return not self._is_limited or (self._turn_at is not None and now >= self._turn_at)

    def limit(self, size: int) -> int:
        """Return how many of so many requests may be written in one transaction."""
        contract = self._contract()
        if contract.max_rate is not None:  # all drains together may write at once what they may in a second
            size = min(size, max(1, int(contract.max_rate / contract.partitions)))
        return size if self._throttle is None or self._target_s() is None else self._throttle.limit(size)

    @property
    def throttled(self) -> str | None:
        """How the target latency is kept, for operators; None when nothing is done for it."""
        if self._throttle is None or self._target_s() is None or not (what := str(self._throttle)):
            return None
        return f"{what}, because transactions took longer than {self._throttle.target_s:g}s"

    async def turn(self, stopping: asyncio.Event) -> bool:
        """Wait until a transaction may begin. Returns False when the drain is stopped and that would take too long."""
        if self.has_turn:
            return True
        self._waiting = True
        self._bell.ring()
        try:
            while not self.has_turn:
                comes_at = max(self._turn_at or 0.0, self._rest_until)
                if stopping.is_set() and comes_at - self._now() > STOPPED_WITHIN.total_seconds():
                    return False
                await self._bell.wait()
        finally:
            self._waiting = False
        return True

    @contextmanager
    def writer_waits(self) -> Iterator[None]:
        """Enclose the writer's waiting for a batch."""
        self._writer_waits = True
        if self._is_limited:
            self._bell.ring()
        try:
            yield
        finally:
            self._writer_waits = False

    def begun(self, rows: int) -> None:
        """Note that a transaction with so many rows begins."""
        if self._is_limited:
            self._turn_at = None
            self._rows += rows
            self._bell.ring()

    def ended(self, requests: int, seconds: float) -> None:
        """Note how long a transaction took that has been committed, or that has taken too long."""
        target_s = self._target_s()
        if target_s is None:
            self._throttle = None
            return
        if self._throttle is None or self._throttle.target_s != target_s:
            self._throttle = Throttle(target_s)
        rest_s = self._throttle.took(requests, seconds, max_items=self._contract().max_items)
        if rest_s:
            self._rest_until = self._now() + rest_s
            asyncio.get_running_loop().call_at(self._rest_until, self._bell.ring)

    async def run(self) -> None:
        """Ask for turns, and follow the contract, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_contract(), name="follow the contract")
            while True:
                # Not before the writer is free: a turn that is held while it writes would be taken from others.
                writes = self._waiting or (self._writer_waits and self._wanted())
                asks = self._is_limited and self._turn_at is None and writes
                if asks or (self._rows and not self._redis_is_away):
                    await self._exchange(asks)
                elif self._is_limited:
                    await self._bell.wait()
                else:  # without being woken by every entry
                    await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def _follow_contract(self) -> None:
        """Wake all stages when the contract has other limits: it tells nobody, and they wait by the earlier ones."""
        known = self._contract()
        while True:
            await asyncio.sleep(LOOK_EVERY.total_seconds())
            if (contract := self._contract()) != known:
                known = contract
                self._turn_at = None
                self._bell.ring()

    async def _exchange(self, asks: bool) -> None:
        limits = self._limits()
        rows, self._rows = self._rows, 0
        pace, max_rate = limits
        try:
            seconds = await self._queue.next_turn(
                pace=pace, max_rate=max_rate, partitions=self._contract().partitions, asks=asks, rows=rows
            )
            self._redis_is_away = False
        except QueueUnavailable as error:
            if not self._redis_is_away:
                logger.warning("%s goes on at its share of the pace: %s", self._queue.stream_key, error)
            self._redis_is_away = True
            if not asks:
                self._rows += rows
                return
            seconds = self._contract().partitions * max(1 / pace if pace else 0.0, rows / max_rate if max_rate else 0.0)
        if asks and limits == self._limits():
            self._turn_at = self._now() + seconds
            asyncio.get_running_loop().call_at(self._turn_at, self._bell.ring)

    def _target_s(self) -> float | None:
        target_ms = self._contract().target_latency_ms
        return None if target_ms is None else target_ms / 1000

    @property
    def _is_limited(self) -> bool:
        return self._limits() != (None, None)

    def _limits(self) -> Limits:
        contract = self._contract()
        return contract.pace, contract.max_rate

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
