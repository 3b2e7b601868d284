from collections import Counter

import pytest

from write_batcher.queue.latencies import Latency, latency, latency_counter


@pytest.mark.parametrize(("ms", "below"), [(-1, 1), (0, 1), (1, 2), (2, 4), (3, 4), (1000, 1024), (1024, 2048)])
def test_latency_is_counted_below_the_next_power_of_two(ms: int, below: int) -> None:
    assert latency_counter("write", ms) == f"write_below_{below}_ms"


def test_percentiles_are_rounded_up_to_a_power_of_two() -> None:
    counters = Counter(latency_counter("write", ms) for ms in [*[10] * 94, *[100] * 4, 1000, 9000])
    assert latency("write", counters) == Latency(p50_ms=16, p95_ms=128, p99_ms=1024)


def test_latency_without_counts_is_none() -> None:
    assert latency("write", {"queued_below_16_ms": 3, "written": 9}) is None
