"""Figures of several rounds as one: medians with their spread, sums of harm, and which contender is best."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from write_batcher.compare.quantiles import quantile
from write_batcher.compare.report.measures import HARMS, Measure
from write_batcher.compare.results import (
    BROKEN_PROMISES,
    LIBRARY,
    Contender,
    Results,
    Run,
    Scenario,
    is_limited_by_producers,
)

# Two medians are called equally good when they differ by at most this share of the better one. Overlapping spreads are
# called equally good as well.
EQUAL_WITHIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over all rounds."""

    middle: float
    """The median; of a harm such as `failed` or `lost`, the sum."""
    low: float
    high: float


def finite(value: object) -> float | None:
    """Return `value` if it is a finite number, otherwise None: a figure may be null, and JSON files may hold NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def finite_numbers(values: Iterable[object]) -> list[float]:
    """Return the finite numbers among `values`."""
    return [found for value in values if (found := finite(value)) is not None]


class Figures:
    """The runs of a comparison, to be queried by scenario, contender and database.

    Without a contender or a database, a query covers all of them.
    """

    def __init__(self, results: Results) -> None:
        self.runs = [run for run in results.runs if run.figures]
        """The runs that were measured; only these take part in what follows."""
        self.unmeasured = [run for run in results.runs if not run.figures]
        self.untrusted = frozenset(
            run.contender
            for run in self.runs
            if run.contender in LIBRARY and any((finite(run.figures.get(name)) or 0) > 0 for name in BROKEN_PROMISES)
        )
        """Contenders that broke a promise of this library in any run: they are recommended nowhere."""

    def runs_of(self, scenario: Scenario, contender: Contender | None = None, database: str | None = None) -> list[Run]:
        """Return the runs of a scenario, by round."""
        runs = [
            run
            for run in self.runs
            if run.scenario is scenario
            and (contender is None or run.contender is contender)
            and (database is None or run.database == database)
        ]
        return sorted(runs, key=lambda run: run.round)

    def contenders(self, scenario: Scenario | None = None, database: str | None = None) -> list[Contender]:
        """Return the contenders that took part, always in the same order."""
        took_part = {
            run.contender for run in self.runs if scenario in (None, run.scenario) and database in (None, run.database)
        }
        return [contender for contender in Contender if contender in took_part]

    def databases(self, scenario: Scenario | None = None) -> list[str]:
        """Return the databases that were written to, SQLite first."""
        names = {run.database for run in self.runs if scenario in (None, run.scenario)}
        return sorted(names, key=lambda name: (name != "sqlite", name))

    def scenarios(self) -> list[Scenario]:
        """Return the scenarios that were measured."""
        measured = {run.scenario for run in self.runs}
        return [scenario for scenario in Scenario if scenario in measured]

    def spread(self, measure: Measure, contender: Contender, database: str | None = None) -> Spread | None:
        """Return the measure over all rounds; None when no run has it."""
        values = finite_numbers(
            figure_of(run, measure.figure) for run in self.runs_of(measure.scenario, contender, database)
        )
        if not values:
            return None
        middle = sum(values) if measure.is_harm else median(values)
        return Spread(middle=middle, low=min(values), high=max(values))

    def spreads(self, measure: Measure, database: str | None = None) -> dict[Contender, Spread]:
        """Return the measure of every contender that has it."""
        found = {
            contender: self.spread(measure, contender, database)
            for contender in self.contenders(measure.scenario, database)
        }
        return {contender: spread for contender, spread in found.items() if spread is not None}

    def total(self, scenario: Scenario, figure: str, contender: Contender, database: str | None = None) -> float | None:
        """Return the sum of a figure over all rounds; None when no run has it."""
        values = finite_numbers(figure_of(run, figure) for run in self.runs_of(scenario, contender, database))
        return sum(values) if values else None

    def did_harm(self, scenario: Scenario, contender: Contender, database: str | None = None) -> bool:
        """Whether a contender failed, lost or duplicated a write that it should not have. Then it is never the best."""
        if contender in self.untrusted:
            return True
        harms = HARMS.get(scenario, BROKEN_PROMISES)
        return any(
            (finite(figure_of(run, harm)) or 0) > 0
            for run in self.runs_of(scenario, contender, database)
            for harm in harms
        )

    def limited_by_producers(self, database: str | None = None) -> list[Contender]:
        """Return the contenders whose ceiling is not known, because in a run the producers were no faster."""
        limited = {run.contender for run in self.runs_of(Scenario.CEILING, None, database) if _is_limited(run)}
        return [contender for contender in Contender if contender in limited]

    def best(self, measure: Measure, database: str | None = None) -> list[Contender]:
        """Return the contenders with the best value: several when they are equally good, none when all are."""
        if measure.better is None:
            return []
        spreads = self.spreads(measure, database)
        harmless = {
            contender: spread
            for contender, spread in spreads.items()
            if contender not in self.untrusted
            and (measure.is_harm or not self.did_harm(measure.scenario, contender, database))
        }
        winners = best_of(harmless, measure)
        return winners if len(winners) < len(spreads) else []


def best_of(spreads: Mapping[Contender, Spread], measure: Measure, within: float = EQUAL_WITHIN) -> list[Contender]:
    """Return the contender with the best median and those that are equally good: chance is no reason to choose."""
    if not spreads:
        return []
    sign = -1 if measure.better == "more" else 1
    leader = min(spreads.values(), key=lambda spread: sign * spread.middle)
    return [
        contender
        for contender, spread in spreads.items()
        if abs(spread.middle - leader.middle) <= within * abs(leader.middle)
        or (measure.good_enough is not None and spread.middle <= measure.good_enough)
        or (not measure.is_harm and spread.low <= leader.high and leader.low <= spread.high)
    ]


def figure_of(run: Run, name: str) -> float | None:
    """Return a figure of a run, or one that is derived from its figures and samples; None when it has none."""
    match name:
        case "latency_p50" | "latency_p99":
            latencies = sorted(finite_numbers(run.samples.get("latency_ms", [])))
            return quantile(latencies, 0.5 if name == "latency_p50" else 0.99) if latencies else None
        case "transactions_per_100":
            transactions, rows = finite(run.figures.get("transactions")), finite(run.figures.get("rows"))
            return 100 * transactions / rows if transactions is not None and rows else None
        case "caught_up_s":
            return _caught_up_s(run)
        case _:
            return finite(run.figures.get(name))


def _is_limited(run: Run) -> bool:
    return is_limited_by_producers({name: finite(run.figures.get(name)) for name in ("pushed_s", "seconds")})


def _caught_up_s(run: Run) -> float | None:
    """Return the seconds from the kill of the writer to the last row; None when rows are missing in the end."""
    workflows, rows = finite(run.figures.get("workflows")), finite(run.figures.get("rows"))
    killed = finite(run.figures.get("killed_at_s"))
    if workflows is None or rows is None or killed is None:
        return None
    if rows - (finite(run.figures.get("duplicates")) or 0) < workflows:
        return None
    last = max((second for second, _ in points_of(run, "rows")), default=0.0)
    # A row that is seen before the writer is back was committed before the kill. If all are, nothing was interrupted.
    restarted = finite(run.figures.get("restarted_at_s"))
    return last - killed if last > (killed if restarted is None else restarted) else None


def points_of(run: Run, field: str) -> list[tuple[float, float]]:
    """Return (second, value of `field`) of each point that has both, by second."""
    pairs = [
        (finite(point.get("s")), finite(point.get(field)))
        for point in run.samples.get("points", [])
        if isinstance(point, Mapping)
    ]
    return sorted((second, value) for second, value in pairs if second is not None and value is not None)
