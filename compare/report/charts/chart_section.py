"""A chart of the report with its texts and its data, and what the charts of all scenarios are built from."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from write_batcher.compare.report.figures import Figures, finite_numbers
from write_batcher.compare.report.formatting import ABSENT, format_figure
from write_batcher.compare.report.measures import Measure, measure
from write_batcher.compare.report.vega_lite import BarPanel, Chart
from write_batcher.compare.results import Contender, Run, Scenario

MAX_TABLE_POINTS = 30  # of one series in a table of the page; all points are in results.json


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTable:
    """The data of a chart."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartSection:
    """A section of the report with one chart."""

    key: str
    """The name of its PNG and its id on the page."""
    title: str
    description: str
    """What was done and what the chart shows."""
    finding: str
    """What to see, computed from the data; may be empty."""
    chart: Callable[[int], Chart]
    """Makes the chart for a width in pixels."""
    data: DataTable


def bar_panels(
    figures: Figures,
    scenario: Scenario,
    name: str,
    title: str,
    unit: str,
    label: Callable[[float], str] | None = None,
    remarks: Mapping[Contender, str] | None = None,
) -> list[BarPanel]:
    """Return a panel with the figure `name` for each database; none when no contender has it.

    `label` formats a value; `remarks` are appended to the labels of contenders.
    """
    remarks = remarks or {}
    shown = measure(scenario, name)
    databases = figures.databases(scenario)
    panels = []
    for database in databases:
        rows = [
            {
                "contender": contender,
                "value": spread.middle,
                "low": spread.middle if shown.is_harm else spread.low,
                "high": spread.middle if shown.is_harm else spread.high,
                "label": (label(spread.middle) if label else format_figure(spread.middle, "number"))
                + remarks.get(contender, ""),
            }
            for contender, spread in figures.spreads(shown, database).items()
        ]
        if rows:
            panels.append(BarPanel(title=title, database=database if len(databases) > 1 else "", unit=unit, rows=rows))
    return panels


def bar_table(grid: Sequence[Sequence[BarPanel]], extra_rows: Sequence[tuple[str, ...]] = ()) -> DataTable:
    """Return the data of bars, followed by `extra_rows`."""
    rows = [
        (
            ", ".join(part for part in (panel.title, panel.database) if part),
            str(row["contender"]),
            _exact(row["value"]),
            _range(row["low"], row["high"]),
        )
        for panels in grid
        for panel in panels
        for row in panel.rows
    ]
    return DataTable(columns=("measure", "contender", "median", "lowest to highest"), rows=(*rows, *extra_rows))


def rows_without_bars(figures: Figures, scenario: Scenario, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return rows for `bar_table` with figures that the chart does not show."""
    rows: list[tuple[str, ...]] = []
    for name in names:
        for database in figures.databases(scenario):
            listed = Measure(scenario=scenario, label=name, figure=name, kind="number")
            rows += [
                (f"{name}, {database}", str(contender), _exact(spread.middle), _range(spread.low, spread.high))
                for contender, spread in figures.spreads(listed, database).items()
            ]
    return rows


def _range(low: float, high: float) -> str:
    return ABSENT if low == high else f"{_exact(low)} to {_exact(high)}"


def _exact(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def first_rounds(figures: Figures, scenario: Scenario) -> list[Run]:
    """Return the first run of each contender on each database: curves of several rounds would hide each other."""
    found: dict[tuple[Contender, str], Run] = {}
    for database in figures.databases(scenario):
        for contender in figures.contenders(scenario, database):
            for run in figures.runs_of(scenario, contender, database):
                found.setdefault((contender, database), run)
    return list(found.values())


def samples_of(run: Run, name: str) -> list[float]:
    """Return the samples of a run that are numbers."""
    return finite_numbers(run.samples.get(name, []))


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return every n-th point, at most `MAX_TABLE_POINTS` of them."""
    step = max(1, -(-len(points) // MAX_TABLE_POINTS))
    return list(points[::step])


def rates_of(points: Sequence[tuple[float, float]], start: float) -> Iterator[tuple[float, float]]:
    """Yield (seconds after `start`, rows per second in the interval that begins there).

    `points` are (second, rows in total). An interval is one second, or the mean time between two points if that is
    longer: nothing is known about what happened between them. The intervals cover all points, so that every row is
    counted in one of them, and the first and the last interval may be only partly filled.
    """
    if len(points) < 2:
        return
    step = max(1.0, (points[-1][0] - points[0][0]) / (len(points) - 1))
    first = -math.ceil((start - points[0][0]) / step)
    last = math.floor((points[-1][0] - start) / step) + 1
    for index in range(first, last):
        low, high = (_rows_at(points, start + edge * step) for edge in (index, index + 1))
        yield index * step, max(0.0, high - low) / step
    yield last * step, 0.0


def _rows_at(points: Sequence[tuple[float, float]], second: float) -> float:
    return max((rows for when, rows in points if when <= second), default=0.0)
