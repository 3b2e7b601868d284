"""Any number of alarms on one timer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from write_batcher.workflows.alarms import Alarms


class Clock:
    """The event loop of a workflow, as far as alarms need it: time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, ring: Callable[[], None]) -> "Timer":
        assert delay > 0
        self.timers.append(Timer(self.now + delay, ring))
        return self.timers[-1]

    def pass_until(self, then: float) -> None:
        while running := [timer for timer in self.timers if timer.running and timer.at <= then]:
            first = min(running, key=lambda timer: timer.at)
            self.now, first.running = first.at, False
            first.ring()
        self.now = then


class Timer:
    def __init__(self, at: float, ring: Callable[[], None]) -> None:
        self.at, self.ring, self.running = at, ring, True

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.running = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("write_batcher.workflows.alarms.asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    return clock


@pytest.fixture
def rung() -> list[Any]:
    return []


def test_alarms_ring_in_order_on_one_timer_at_a_time(clock: Clock, rung: list[Any]) -> None:
    alarms = Alarms()
    for at in (1_010.0, 1_020.0, 1_015.0):
        alarms.set(at, lambda at=at: rung.append((at, clock.now)))  # type: ignore[misc] # mypy on defaults of lambdas
        assert sum(timer.running for timer in clock.timers) == 1
    clock.pass_until(1_030.0)
    assert rung == [(1_010.0, 1_010.0), (1_015.0, 1_015.0), (1_020.0, 1_020.0)]
    assert len(clock.timers) == 3


def test_earlier_alarm_starts_the_timer_anew(clock: Clock, rung: list[Any]) -> None:
    alarms = Alarms()
    alarms.set(1_600.0, lambda: rung.append("late"))
    alarms.set(1_060.0, lambda: rung.append("early"))
    clock.pass_until(1_100.0)
    assert rung == ["early"]
    clock.pass_until(1_700.0)
    assert rung == ["early", "late"]


def test_alarm_that_is_off_does_not_ring_and_later_ones_use_its_timer(clock: Clock, rung: list[Any]) -> None:
    alarms = Alarms()
    for number in range(10):
        clock.pass_until(1_000.0 + number)
        alarms.set(1_060.0 + number, lambda: rung.append("rung")).switch_off()
    alarms.set(1_080.0, lambda: rung.append("last"))
    assert len(clock.timers) == 1
    clock.pass_until(1_100.0)
    assert (rung, len(clock.timers)) == (["last"], 2)


def test_alarm_for_the_past_rings_at_once(clock: Clock, rung: list[Any]) -> None:
    Alarms().set(900.0, lambda: rung.append(clock.now))
    clock.pass_until(1_001.0)
    assert rung == [pytest.approx(1_000.0, abs=0.1)]


def test_alarm_may_set_another(clock: Clock, rung: list[Any]) -> None:
    alarms = Alarms()
    alarms.set(1_010.0, lambda: alarms.set(1_020.0, lambda: rung.append(clock.now)))
    clock.pass_until(1_030.0)
    assert rung == [1_020.0]
