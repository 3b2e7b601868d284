"""How batch size and rest follow the latency of a modelled database."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import pytest

from write_batcher.activities.drain.throttle import LONGEST_REST, Throttle

TARGET_S = 0.25
MAX_ITEMS = 100


@dataclass(frozen=True)
class Transaction:
    at_s: float
    requests: int
    seconds: float
    rest_s: float


def simulate(latency: Callable[[int, float], float], *, transactions: int = 400) -> list[Transaction]:
    """Write full batches one after the other; `latency` is that of so many requests at a time, in seconds."""
    noise = random.Random(7)
    throttle, at_s, done = Throttle(TARGET_S), 0.0, []
    for _ in range(transactions):
        requests = throttle.limit(MAX_ITEMS)
        seconds = latency(requests, at_s) * noise.uniform(0.85, 1.2)
        rest_s = throttle.took(requests, seconds, max_items=MAX_ITEMS)
        done.append(Transaction(at_s, requests, seconds, rest_s))
        at_s += seconds + rest_s
    return done


def settled(done: list[Transaction]) -> list[Transaction]:
    return done[len(done) // 2 :]


def test_healthy_database_gets_full_batches_without_a_rest() -> None:
    done = simulate(lambda requests, _: 0.002 + 0.0001 * requests)
    assert {(one.requests, one.rest_s) for one in done} == {(MAX_ITEMS, 0.0)}


@pytest.mark.parametrize(("fixed_s", "per_request_s"), [(0.005, 0.01), (0.1, 0.01), (0.02, 0.1)])
def test_batches_shrink_to_what_is_written_in_time(fixed_s: float, per_request_s: float) -> None:
    done = settled(simulate(lambda requests, _: fixed_s + per_request_s * requests))
    in_time = (TARGET_S - fixed_s) / per_request_s
    assert mean(one.requests for one in done) == pytest.approx(in_time, rel=0.25)
    assert mean(one.seconds for one in done) < 1.1 * TARGET_S


def test_latency_that_smaller_batches_do_not_help_makes_it_rest_with_full_ones() -> None:
    done = settled(simulate(lambda requests, _: 0.4 + 0.0001 * requests))
    assert mean(one.requests for one in done) > 0.8 * MAX_ITEMS
    busy = sum(one.seconds for one in done) / sum(one.seconds + one.rest_s for one in done)
    assert busy == pytest.approx(1 / (1 + LONGEST_REST), rel=0.05)


def test_single_request_that_takes_too_long_makes_it_rest() -> None:
    done = settled(simulate(lambda requests, _: 0.5 * requests))
    assert {one.requests for one in done} == {1}
    assert min(one.rest_s for one in done) > 0.5


@pytest.mark.parametrize("trouble", ["slower rows", "waits for others"])
def test_database_that_recovers_gets_everything_again(trouble: str) -> None:
    def latency(requests: int, at_s: float) -> float:
        healthy = 0.005 + 0.0005 * requests
        if not 10 < at_s < 40:
            return healthy
        return 20 * healthy if trouble == "slower rows" else healthy + 0.5

    done = simulate(latency, transactions=1_500)
    during = [one for one in done if 20 < one.at_s < 40]
    after = [one for one in done if one.at_s > 60]
    assert sum(one.seconds for one in during) / 20 < 1.1
    assert all(one.seconds < 1.5 * TARGET_S or one.rest_s > one.seconds for one in during)
    assert {(one.requests, one.rest_s) for one in after} == {(MAX_ITEMS, 0.0)}


def test_never_more_than_configured_and_never_nothing() -> None:
    noise = random.Random(3)
    throttle = Throttle(TARGET_S)
    for _ in range(5_000):
        requests = throttle.limit(noise.randint(1, MAX_ITEMS))
        assert 1 <= requests <= MAX_ITEMS
        seconds = noise.choice((0.0, 0.01, 0.24, 0.26, 3.0))
        assert 0 <= throttle.took(requests, seconds, max_items=MAX_ITEMS) <= LONGEST_REST * seconds


def test_tells_operators_what_it_does() -> None:
    throttle = Throttle(TARGET_S)
    assert str(throttle) == ""
    throttle.took(100, 1.0, max_items=MAX_ITEMS)
    assert str(throttle) == "batches of 70"
    for _ in range(20):
        throttle.took(throttle.limit(MAX_ITEMS), 1.0, max_items=MAX_ITEMS)
    assert str(throttle).endswith("a rest 9 times as long as each")
