"""Histograms of milliseconds among a partition's counters: one counter for each power of two."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles in milliseconds, rounded up to a power of two."""

    p50_ms: int
    p95_ms: int
    p99_ms: int


def latency_counter(name: str, ms: int) -> str:
    """The counter of the latencies `name` that are as long as `ms`: below the power of two that it names."""
    return f"{name}_below_{1 << max(ms, 0).bit_length()}_ms"


def latency(name: str, counters: Mapping[str, int]) -> Latency | None:
    """What the counters tell of the latencies `name`; None when there were none."""
    start, end = f"{name}_below_", "_ms"
    histogram = sorted(
        (int(counter[len(start) : -len(end)]), number)
        for counter, number in counters.items()
        if counter.startswith(start) and counter.endswith(end)
    )
    total = sum(number for _below, number in histogram)
    if not total:
        return None
    return Latency(**{f"p{percent}_ms": _percentile(histogram, total * percent / 100) for percent in (50, 95, 99)})


def _percentile(histogram: list[tuple[int, int]], wanted: float) -> int:
    seen = accumulate(number for _below, number in histogram)
    return next(below for (below, _number), up_to in zip(histogram, seen, strict=True) if up_to >= wanted)
