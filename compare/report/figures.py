"""Figures of several rounds as one: medians with their spread, totals of harm, and which contender is best."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

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

ALIKE_WITHIN = 0.1
"""Two medians this close, as a share of the better one, are called equally good; so are two whose spreads overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over rounds. Of a total (`failed`, `lost`), `middle` is the sum of all rounds."""

    middle: float
    low: float
    high: float


def number(value: object) -> float | None:
    """`value` if it is a finite number: a figure may be None, and JSON knows NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def numbers(values: Iterable[object]) -> list[float]:
    """The finite numbers among `values`."""
    return [found for value in values if (found := number(value)) is not None]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: a value that was measured. `ordered` must not be empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Figures:
    """Asks the runs of a comparison. Those that could not be measured are `unmeasured`, and took no part."""

    def __init__(self, results: Results) -> None:
        self.runs = [run for run in results.runs if run.figures]
        self.unmeasured = [run for run in results.runs if not run.figures]
        self.untrusted = frozenset(
            run.contender
            for run in self.runs
            if run.contender in LIBRARY and any((number(run.figures.get(name)) or 0) > 0 for name in BROKEN_PROMISES)
        )
        """Who broke its promise in any run is recommended nowhere."""

    def of(self, scenario: Scenario, contender: Contender | None = None, database: str | None = None) -> list[Run]:
        """The runs of a scenario, by round."""
        runs = [
            run
            for run in self.runs
            if run.scenario is scenario
            and (contender is None or run.contender is contender)
            and (database is None or run.database == database)
        ]
        return sorted(runs, key=lambda run: run.round)

    def contenders(self, scenario: Scenario | None = None, database: str | None = None) -> list[Contender]:
        """Who took part, in the order in which they are always named."""
        took_part = {
            run.contender for run in self.runs if scenario in (None, run.scenario) and database in (None, run.database)
        }
        return [contender for contender in Contender if contender in took_part]

    def databases(self, scenario: Scenario | None = None) -> list[str]:
        """What was written to: SQLite first, because it is always there."""
        names = {run.database for run in self.runs if scenario in (None, run.scenario)}
        return sorted(names, key=lambda name: (name != "sqlite", name))

    def scenarios(self) -> list[Scenario]:
        """What was measured."""
        measured = {run.scenario for run in self.runs}
        return [scenario for scenario in Scenario if scenario in measured]

    def spread(self, measure: Measure, contender: Contender, database: str | None = None) -> Spread | None:
        """The measure over all rounds; None if nobody measured it."""
        values = numbers(number_of(run, measure.figure) for run in self.of(measure.scenario, contender, database))
        if not values:
            return None
        middle = sum(values) if measure.is_harm else median(values)
        return Spread(middle=middle, low=min(values), high=max(values))

    def total(self, scenario: Scenario, figure: str, contender: Contender, database: str | None = None) -> float | None:
        """Sum over rounds; None if nobody measured it."""
        values = numbers(number_of(run, figure) for run in self.of(scenario, contender, database))
        return sum(values) if values else None

    def harmed(self, scenario: Scenario, contender: Contender, database: str | None = None) -> bool:
        """Whether a contender failed, lost or doubled a write it should not have. Then it is not called best."""
        if contender in self.untrusted:
            return True
        harms = HARMS.get(scenario, BROKEN_PROMISES)
        return any(
            (number(number_of(run, harm)) or 0) > 0 for run in self.of(scenario, contender, database) for harm in harms
        )

    def limited(self, database: str | None = None) -> list[Contender]:
        """Whose ceiling is not known, because in a run the producers were no faster."""
        limited = {run.contender for run in self.of(Scenario.CEILING, None, database) if _is_limited(run)}
        return [contender for contender in Contender if contender in limited]

    def spreads(self, measure: Measure, database: str | None = None) -> dict[Contender, Spread]:
        """The measure of everybody who has it."""
        found = {
            contender: self.spread(measure, contender, database)
            for contender in self.contenders(measure.scenario, database)
        }
        return {contender: spread for contender, spread in found.items() if spread is not None}

    def best(self, measure: Measure, database: str | None = None) -> list[Contender]:
        """Who has the best value; several when they are equally good, none when there is nothing to choose."""
        if measure.better is None:
            return []
        spreads = self.spreads(measure, database)
        unharmed = {
            contender: spread
            for contender, spread in spreads.items()
            if contender not in self.untrusted
            and (measure.is_harm or not self.harmed(measure.scenario, contender, database))
        }
        winners = best_of(unharmed, measure)
        return winners if len(winners) < len(spreads) else []


def best_of(spreads: Mapping[Contender, Spread], measure: Measure, within: float = ALIKE_WITHIN) -> list[Contender]:
    """Who has the best median, and who cannot be told from it: what chance decides is no reason to choose."""
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


def number_of(run: Run, figure: str) -> float | None:
    """A figure of a run, or one that follows from its figures and samples."""
    match figure:
        case "latency_p50" | "latency_p99":
            latencies = sorted(numbers(run.samples.get("latency_ms", [])))
            return quantile(latencies, 0.5 if figure == "latency_p50" else 0.99) if latencies else None
        case "transactions_per_100":
            transactions, rows = number(run.figures.get("transactions")), number(run.figures.get("rows"))
            return 100 * transactions / rows if transactions is not None and rows else None
        case "caught_up_s":
            return _caught_up_s(run)
        case _:
            return number(run.figures.get(figure))


def _is_limited(run: Run) -> bool:
    return is_limited_by_producers({name: number(run.figures.get(name)) for name in ("pushed_s", "seconds")})


def _caught_up_s(run: Run) -> float | None:
    """From the kill of the writer until the last row was there; None when rows are missing in the end."""
    workflows, rows = number(run.figures.get("workflows")), number(run.figures.get("rows"))
    killed = number(run.figures.get("killed_at_s"))
    if workflows is None or rows is None or killed is None:
        return None
    if rows - (number(run.figures.get("duplicates")) or 0) < workflows:
        return None
    last = max((second for second, _ in points_of(run, "rows")), default=0.0)
    # What is seen before the writer is back was committed before the kill: then nothing was interrupted.
    restarted = number(run.figures.get("restarted_at_s"))
    return last - killed if last > (killed if restarted is None else restarted) else None


def points_of(run: Run, field: str) -> list[tuple[float, float]]:
    """(second, figure) of each point that has both, in order."""
    pairs = [
        (number(point.get("s")), number(point.get(field)))
        for point in run.samples.get("points", [])
        if isinstance(point, Mapping)
    ]
    return sorted((second, value) for second, value in pairs if second is not None and value is not None)
