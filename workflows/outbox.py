"""What a workflow sends by activities, bounded: what is posted in one workflow task goes together."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeVar

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from write_batcher.errors import WriteFailed
from write_batcher.workflows.alarms import Alarms
from write_batcher.workflows.awaited_write import Write

# A workflow task is completed in one gRPC message of at most 4 MB, or the server terminates the workflow. There are two
# outboxes, for appends and for settling; the rest is left to the workflow's own commands.
MAX_BYTES_UNDER_WAY = 1_500_000
MAX_ACTIVITIES_UNDER_WAY = 20  # a workflow may have 2,000 pending ones
SHORTEST_S = 0.1  # of an activity: for Temporal, 0 is no limit
LONGEST_PAUSE_S = 10  # until a posting that is refused for now is offered again
MAX_ACTIVITY_BYTES = 1_000_000  # the input of an activity may have 2 MB; a payload codec adds to it
ATTEMPT_TIMEOUT = timedelta(seconds=15)
RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=10)
)


@dataclass(eq=False, slots=True, kw_only=True)
class Posting:
    """One trip of a write through an outbox."""

    write: Write
    lane: Hashable
    """Postings with equal lanes may go together."""
    trip: "Trip[Any] | None" = None
    """The activity that carries it now."""
    withdrawn: bool = False
    refusals: int = 0


P = TypeVar("P", bound=Posting)


@dataclass(eq=False, slots=True)
class Trip(Generic[P]):
    """One activity with the postings that it carries."""

    postings: list[P]
    size: int
    awaited: int
    """How many of its postings somebody waits for."""
    activity: "workflow.ActivityHandle[RawValue] | None" = None
    over: bool = False


@dataclass(eq=False)
class Outbox(ABC, Generic[P]):
    """Sends postings by activities. A subclass knows which activity, and what its result means."""

    max_postings: int
    """In one activity."""
    alarms: Alarms
    # The workflow's own: `withdraw` also runs when a coroutine is collected, with another loop running, or none.
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _lanes: dict[Hashable, deque[P]] = field(default_factory=dict)
    _bytes: int = 0
    _activities: int = 0
    _flush_is_due: bool = False

    @abstractmethod
    def _start(self, postings: list[P]) -> "workflow.ActivityHandle[RawValue]":
        """Start the activity that carries these postings of one lane."""

    @abstractmethod
    def _returned(self, postings: list[P], result: RawValue) -> None:
        """Tell the postings what their activity returned."""

    @abstractmethod
    def _failed(self, postings: list[P], error: Exception, *, sent: bool) -> None:
        """Tell the postings that their activity failed, or could not even be started."""

    def post(self, posting: P) -> None:
        """Send the posting, with whatever else is posted before this workflow task ends, as soon as it may."""
        if not posting.withdrawn:
            self._lanes.setdefault(posting.lane, deque()).append(posting)
            self._flush_soon()

    def _offer_again(self, posting: P, *, until: float) -> bool:
        """Post a posting that was refused for now again, after a pause that grows with each refusal. False when that
        would be after `until`, in seconds since the epoch.
        """
        posting.refusals += 1
        again_at = workflow.time() + min(2**posting.refusals, LONGEST_PAUSE_S)
        if again_at >= until:
            return False
        self.alarms.set(again_at, lambda: self.post(posting))
        return True

    def withdraw(self, posting: P) -> None:
        """Care no more about the posting. An activity that carries no other is cancelled, so that it is not retried."""
        posting.withdrawn = True
        trip = posting.trip
        if trip is None or trip.over:
            return
        trip.awaited -= 1
        if trip.awaited == 0 and trip.activity is not None:
            self._end(trip)
            trip.activity.cancel()

    @property
    def half_empty(self) -> bool:
        """Whether at least half of what may be under way is free."""
        return self._activities < MAX_ACTIVITIES_UNDER_WAY // 2 and self._bytes < MAX_BYTES_UNDER_WAY // 2

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            # After whatever the workflow does now: submits that are made together end up in one activity.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        started = True
        while started:
            # One activity for each lane in turn, so that none has to wait for the thousands of another.
            started = False
            for lane in list(self._lanes):
                if postings := self._loaded(self._lanes[lane]):
                    self._send(postings)
                    started = True
                if not self._lanes[lane]:
                    del self._lanes[lane]
        self._flushed([posting for lane in self._lanes.values() for posting in lane])

    def _flushed(self, waiting: list[P]) -> None:
        """Hear of the postings that have to wait until something under way has ended."""

    def _is_over(self, posting: P) -> bool:
        """Whether the posting need not be sent any more."""
        return posting.withdrawn

    def _loaded(self, lane: deque[P]) -> list[P]:
        """Take from the lane what fits into one activity now."""
        postings: list[P] = []
        size = 0
        while lane and len(postings) < self.max_postings and self._activities < MAX_ACTIVITIES_UNDER_WAY:
            if self._is_over(lane[0]):
                lane.popleft()
                continue
            try:
                larger = size + lane[0].write.size
            except WriteFailed as invalid:
                self._failed([lane.popleft()], invalid, sent=False)
                continue
            if postings and larger > MAX_ACTIVITY_BYTES:
                break
            if self._activities and self._bytes + larger > MAX_BYTES_UNDER_WAY:
                break
            postings.append(lane.popleft())
            size = larger
        return postings

    def _send(self, postings: list[P]) -> None:
        trip = Trip(postings, sum(posting.write.size for posting in postings), len(postings))
        self._bytes += trip.size
        self._activities += 1
        for posting in postings:
            posting.trip = trip
        try:
            trip.activity = self._start(postings)
        except Exception as error:  # noqa: BLE001 - a payload converter may raise anything, and nobody would hear of it
            self._end(trip)
            self._failed(postings, error, sent=False)
            return
        trip.activity.add_done_callback(partial(self._ended, trip))

    def _end(self, trip: Trip[P]) -> None:
        trip.over = True
        self._bytes -= trip.size
        self._activities -= 1
        self._flush_soon()

    def _ended(self, trip: Trip[P], activity: "asyncio.Task[RawValue]") -> None:
        error = None if activity.cancelled() else activity.exception()
        # Cancelled by `withdraw`, or when the workflow is evicted from its worker's cache: no error of an activity.
        if trip.over or activity.cancelled() or not isinstance(error, Exception | None):
            return
        self._end(trip)
        for posting in trip.postings:
            posting.trip = None
        if error is not None:
            self._failed(trip.postings, error, sent=True)
        else:
            self._returned(trip.postings, activity.result())
