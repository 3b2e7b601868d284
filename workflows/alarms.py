"""Any number of alarms on one timer of Temporal: each timer costs an action, and a workflow may have 2,000."""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

TOGETHER_S = 0.05  # alarms so close to each other ring at once
SHORTEST_S = 0.001  # of a timer; Temporal has none of 0


@dataclass(order=True, slots=True)
class Alarm:
    """Rings once at a time of the workflow, in seconds since the epoch, unless it is switched off."""

    at: float
    number: int
    ring: Callable[[], object] = field(compare=False)
    off: bool = field(default=False, compare=False)

    def switch_off(self) -> None:
        """Never ring."""
        self.off = True


class Alarms:
    """All alarms of a workflow. The timer is not cancelled when they are switched off: the next ones mostly need it."""

    def __init__(self) -> None:
        self._heap: list[Alarm] = []
        self._set = 0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float, ring: Callable[[], object]) -> Alarm:
        """Have `ring` called at `at`, at the earliest in the next workflow task."""
        self._set += 1
        alarm = Alarm(at, self._set, ring)
        heapq.heappush(self._heap, alarm)
        self._start_timer()
        return alarm

    def _start_timer(self) -> None:
        """See to it that a timer fires for the first alarm, or before."""
        while self._heap and self._heap[0].off:
            heapq.heappop(self._heap)
        if not self._heap:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= self._heap[0].at + TOGETHER_S:
                return
            self._timer.cancel()
        self._timer = loop.call_later(max(self._heap[0].at - loop.time(), SHORTEST_S), self._ring)

    def _ring(self) -> None:
        self._timer = None
        until = asyncio.get_running_loop().time() + TOGETHER_S
        while self._heap and self._heap[0].at <= until:
            alarm = heapq.heappop(self._heap)
            if not alarm.off:
                alarm.ring()
        self._start_timer()
