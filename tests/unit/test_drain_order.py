"""Whatever goes wrong, and in whatever order: every request is decided once, and those of a key in their order."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

import pytest
from hypothesis import example, given, settings, strategies as st
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from tests.support.virtual_drain import VirtualPartition
from tests.support.virtual_time import run_virtually
from write_batcher.activities.drain.loop import Drain
from write_batcher.errors import BatchTooLarge, SinkUnavailable
from write_batcher.models import Batch, DrainResult, Outcome, WriteRequest
from write_batcher.queue.marks import Order
from write_batcher.queue.stream_entry import StreamEntry

WITHIN_S = 1_800.0  # of the virtual clock
TEMPORAL_AWAY = RPCError("no connection", RPCStatusCode.UNAVAILABLE, b"")
FINAL = {Outcome.WRITTEN, Outcome.DUPLICATE, Outcome.REJECTED}


class Trouble(StrEnum):
    """What happens to one try of an entry."""

    HANGS = "its key server hangs"
    UNDECODABLE = "its key server is away"
    HELD = "the sink holds it"
    RAISES = "it makes the sink raise"


class Disturbance(StrEnum):
    """What happens to the whole drain, for a while."""

    REDIS_AWAY = "Redis is away"
    LOST_REPLY = "a read delivers entries and loses them"
    SINK_AWAY = "the sink is away"
    BATCHES_TIME_OUT = "the sink writes single requests only"
    CRASH = "the drain ends without finishing anything"
    STOP = "the drain is stopped, and another one starts"
    TWO_DRAINS = "another drain starts, and this one ends only later"


@dataclass(frozen=True)
class Request:
    key: str
    after_s: float
    """Since the append before it."""
    troubles: tuple[Trouble, ...] = ()
    poison: bool = False
    """Makes the sink raise whenever it is written."""
    caller_is_away: bool = False
    """Its caller cannot be reached at first."""
    order: Order | None = None
    """Given by an operator while it is in the stream."""


@dataclass(frozen=True)
class Event:
    after_s: float
    """Since the end of the event before it."""
    what: Disturbance
    lasts_s: float = 5.0


@dataclass(frozen=True)
class Case:
    requests: tuple[Request, ...]
    events: tuple[Event, ...] = ()
    max_items: int = 100
    max_wait_s: float = 1.0
    with_key_server: bool = True


requests = st.builds(
    Request,
    key=st.sampled_from("klm"),
    after_s=st.sampled_from([0.0, 0.0, 0.0, 0.3, 2.0]),
    troubles=st.lists(st.sampled_from(Trouble), max_size=3).map(tuple),
    poison=st.sampled_from([False] * 9 + [True]),
    caller_is_away=st.sampled_from([False] * 4 + [True]),
    order=st.sampled_from([None] * 8 + [*Order]),
)
events = st.builds(
    Event,
    after_s=st.sampled_from([0.0, 0.5, 1.0, 3.0, 20.0]),
    what=st.sampled_from(Disturbance),
    lasts_s=st.sampled_from([0.1, 2.0, 12.0]),
)
cases = st.builds(
    Case,
    requests=st.lists(requests, min_size=1, max_size=12).map(tuple),
    events=st.lists(events, max_size=4).map(tuple),
    max_items=st.sampled_from([1, 2, 100]),
    max_wait_s=st.sampled_from([1.0, 20.0]),
    with_key_server=st.booleans(),
)


@dataclass
class Course:
    """A case as it runs, and what has gone wrong in it."""

    case: Case
    partition: VirtualPartition = field(default_factory=VirtualPartition)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.by_id = {f"{request.key}{number:02}": request for number, request in enumerate(self.case.requests)}
        self.troubles: dict[str, Iterator[Trouble]] = {
            request_id: iter(request.troubles) for request_id, request in self.by_id.items()
        }
        self.now: dict[str, Trouble | None] = {}
        """The trouble of the current try of each request."""
        self.sink_is_away = self.batches_time_out = False
        self.overlapping: list[tuple[Drain, asyncio.Task[DrainResult]]] = []
        self.partition.max_items = self.case.max_items
        self.partition.max_wait = timedelta(seconds=self.case.max_wait_s)
        if self.case.with_key_server:
            self.partition.decode_with_key_server()
        self.partition.keys.trouble = self._of_decoding
        self.partition.sink.trouble = self._of_writing
        self.partition.sink.hold = self._of_request
        self.partition.queue.on_acknowledge = self._check_acknowledged
        for request_id, request in self.by_id.items():
            if request.caller_is_away:
                self.partition.temporal.fail(request_id, TEMPORAL_AWAY, times=3)

    async def run(self) -> None:
        disturbing = asyncio.create_task(self._disturb())
        appending = asyncio.create_task(self._append())
        await self._drain_until(lambda: appending.done() and disturbing.done() and not self.partition.queue.backlog)
        await appending
        await disturbing
        self._check_end()

    async def _append(self) -> None:
        for request_id, request in self.by_id.items():
            await asyncio.sleep(request.after_s)
            await self.partition.append(request_id, key=request.key)
            if request.order:
                self.partition.queue.order(self.partition.entry_ids[request_id], request.order, "because")

    def _start_drain(self) -> tuple[Drain, asyncio.Task[DrainResult]]:
        drain = self.partition.drain()
        return drain, asyncio.create_task(ActivityEnvironment().run(drain.run))

    async def _drain_until(self, done: Callable[[], bool]) -> None:
        """Drains, one after the other, until `done`."""
        while not done():
            self.drain, self.draining = self._start_drain()
            while not done() and not self.draining.done():  # noqa: ASYNC110 - virtual seconds
                await asyncio.sleep(0.2)
            await _end(self.drain, self.draining)

    async def _end_overlapping(self) -> None:
        while self.overlapping:
            await _end(*self.overlapping.pop())

    async def _disturb(self) -> None:
        partition = self.partition
        for event in self.case.events:
            await asyncio.sleep(event.after_s)
            match event.what:
                case Disturbance.REDIS_AWAY:
                    partition.queue.outage = "away"
                case Disturbance.LOST_REPLY:
                    partition.queue.replies_to_lose = 1
                case Disturbance.SINK_AWAY:
                    self.sink_is_away = True
                case Disturbance.BATCHES_TIME_OUT:
                    self.batches_time_out = True
                case Disturbance.CRASH:
                    self.draining.cancel()
                case Disturbance.STOP:
                    self.drain.stop()
                case Disturbance.TWO_DRAINS:
                    self.overlapping.append((self.drain, self.draining))
                    self.drain, self.draining = self._start_drain()
            await asyncio.sleep(event.lasts_s)
            partition.queue.outage = None
            self.sink_is_away = self.batches_time_out = False
            await self._end_overlapping()

    def _next_try(self, request_id: str, kinds: Collection[Trouble]) -> Trouble | None:
        """The next trouble of a request if it is of these kinds; a try ends with its trouble."""
        trouble = self.now.get(request_id) or next(self.troubles[request_id], None)
        self.now[request_id] = None if trouble in kinds else trouble
        return trouble if trouble in kinds else None

    def _of_decoding(self, request_id: str) -> float | Exception:
        match self._next_try(request_id, (Trouble.HANGS, Trouble.UNDECODABLE)):
            case Trouble.HANGS:
                return 1e6
            case Trouble.UNDECODABLE:
                return OSError("the key server is away")
        return 0.05

    def _of_writing(self, batch: Batch) -> float | Exception:
        if self.sink_is_away:
            return SinkUnavailable("away")
        if self.batches_time_out and len(batch.requests) > 1:
            return BatchTooLarge("too slow")
        ids = [request.request_id for request in batch.requests]
        if any(self.by_id[request_id].poison for request_id in ids):
            return TypeError("poison")
        if any(self._next_try(request_id, (Trouble.RAISES,)) for request_id in ids):
            return ZeroDivisionError("a defect")
        return 0.02

    def _of_request(self, request: WriteRequest) -> str | None:
        return self._next_try(request.request_id, (Trouble.HELD,))

    def _check_acknowledged(self, entry: StreamEntry, outcome: str | None) -> None:
        request_id = entry.request_id.decode()
        receipts = self.partition.temporal.receipts(request_id)
        if outcome in (Outcome.WRITTEN, Outcome.DUPLICATE) and request_id not in self.partition.sink.row_ids:
            self.wrong.append(f"{request_id} was acknowledged before it was committed")
        if outcome != "dead" and not any(receipt.outcome in FINAL for receipt in receipts):
            self.wrong.append(f"{request_id} was acknowledged before its caller was told")

    def _check_end(self) -> None:
        sink, queue = self.partition.sink, self.partition.queue
        two_drains = any(event.what is Disturbance.TWO_DRAINS for event in self.case.events)
        if sink.most_at_once > 1 and not two_drains:
            self.wrong.append("two transactions at once")
        if len(set(sink.row_ids)) < len(sink.row_ids):
            self.wrong.append(f"written twice: {sink.row_ids}")
        of_key: dict[str, list[str]] = defaultdict(list)
        for request_id in sink.row_ids:
            of_key[request_id[0]].append(request_id)
        for written in of_key.values():
            if written != sorted(written):
                self.wrong.append(f"not in order: {written}")
        dead = {letter.entry.request_id.decode() for letter in queue.letters}
        for request_id, request in self.by_id.items():
            if request_id in sink.row_ids:
                continue
            if request_id not in dead:
                self.wrong.append(f"{request_id} is neither written nor a dead letter")
            elif not request.poison and request.order is not Order.REJECT:
                self.wrong.append(f"{request_id} is a dead letter without a reason")
        if queue.given:
            self.wrong.append(f"orders are left over: {queue.given}")


async def wrong_in(case: Case) -> list[str]:
    course = Course(case)
    await course.run()
    return course.wrong


async def _end(drain: Drain, draining: asyncio.Task[DrainResult]) -> None:
    drain.stop()
    await asyncio.wait({draining})
    if not draining.cancelled() and (error := draining.exception()):
        raise error


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)  # thousands of drains
    yield
    logging.disable(logging.NOTSET)


def plain(number: int) -> tuple[Request, ...]:
    return (Request(key="k", after_s=0.0),) * number


HELD = Request(key="k", after_s=0.0, troubles=(Trouble.HELD,))
HANGING = Request(key="k", after_s=0.0, troubles=(Trouble.HANGS,))
REJECTED = Request(key="k", after_s=0.0, order=Order.REJECT)

OVERTAKES_THROUGH_THE_PEN = Case((HELD, REJECTED, *plain(1)), with_key_server=False)
OVERTAKES_A_HELD_ONE = Case((HANGING, *plain(1)), max_items=1)
IS_HELD_BEFORE_ITS_TURN = Case((*plain(2), HANGING), max_wait_s=20.0)
IS_DECODED_BEFORE_ITS_TURN = Case(plain(3), max_items=1)
IS_WRITTEN_AFTER_ONE_WAS_LEFT_PENDING = Case(
    plain(12),
    events=(
        Event(after_s=0.0, what=Disturbance.SINK_AWAY, lasts_s=0.1),
        Event(after_s=0.0, what=Disturbance.STOP, lasts_s=0.1),
    ),
    max_items=1,
    with_key_server=False,
)


@example(OVERTAKES_THROUGH_THE_PEN)
@example(OVERTAKES_A_HELD_ONE)
@example(IS_HELD_BEFORE_ITS_TURN)
@example(IS_DECODED_BEFORE_ITS_TURN)
@example(IS_WRITTEN_AFTER_ONE_WAS_LEFT_PENDING)
@given(cases)
@settings(max_examples=100)
def test_requests_of_a_key_are_written_in_order_whatever_goes_wrong(case: Case) -> None:
    assert run_virtually(wrong_in(case), within_s=WITHIN_S) == []
