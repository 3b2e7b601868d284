"""Latency histograms among a partition's counters: one counter for each power of two milliseconds."""

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
    """Return the counter of the latency `name` for `ms` milliseconds: `write_below_16_ms` counts 8 to 15."""
    return f"{name}_below_{1 << max(ms, 0).bit_length()}_ms"


def latency(name: str, counters: Mapping[str, int]) -> Latency | None:
    """Return the percentiles of the latency `name`, or None when nothing was counted."""
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


def _percentile(histogram: list[tuple[int, int]], rank: float) -> int:
    totals = accumulate(number for _below, number in histogram)
    return next(below for (below, _number), total in zip(histogram, totals, strict=True) if total >= rank)
