"""What samples say: medians, how far the rounds lie apart, and the ratio of ours to what it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

Readings = Mapping[str, float]
"""The figures of one measurement by name; the names have the units: `rows_per_s`, `cpu_us_per_row`, `p99_ms`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure of several rounds."""

    median: float
    min: float
    max: float
    rounds: list[float]
    """In the order of the rounds."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median=median(values), min=min(values), max=max(values), rounds=list(values))


def spreads(samples: Sequence[Readings]) -> dict[str, Spread]:
    """Return the spread of each figure; `samples` are those of one contestant, one per round."""
    return {name: Spread.of([sample[name] for sample in samples]) for name in samples[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Ours against the others."""

    compared: str
    """The name of the figure that decides."""
    ratio: float
    """Of that figure, ours by theirs: the median of the ratios that the rounds have, each by itself. What slows the
    machine down for a while slows down both sides of a round.
    """
    ratio_spread: Spread
    ratios: dict[str, float]
    """The same for every figure that both sides have, unless theirs is 0 in a round. CPU time hardly depends on how
    busy the machine is.
    """
    floor: str
    """The name of the best of `floors`, by the median of the figure that is compared: the one that counts."""
    ours: dict[str, Spread]
    floors: dict[str, dict[str, Spread]]
    """What ours is compared with, by name."""

    @classmethod
    def of(
        cls,
        ours: Sequence[Readings],
        others: Mapping[str, Sequence[Readings]],
        *,
        compared: str,
        lower_is_better: bool = False,
    ) -> Self:
        """`ours` and each of `others` have one sample per round, in the same order."""
        floors = {name: spreads(samples) for name, samples in others.items()}
        choose = min if lower_is_better else max
        best = choose(floors, key=lambda name: floors[name][compared].median)
        pairs = list(zip(ours, others[best], strict=True))
        shared = [name for name in ours[0] if all(theirs.get(name) for _, theirs in pairs)]
        ratios = {name: Spread.of([mine[name] / theirs[name] for mine, theirs in pairs]) for name in shared}
        return cls(
            compared=compared,
            ratio=ratios[compared].median,
            ratio_spread=ratios[compared],
            ratios={name: spread.median for name, spread in ratios.items()},
            floor=best,
            ours=spreads(ours),
            floors=floors,
        )
