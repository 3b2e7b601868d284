"""What a section of the report is made of, and how figures and samples are brought into its form."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from altair.typing import ChartType

from write_batcher.compare.report.figures import Figures, numbers
from write_batcher.compare.report.formatting import ABSENT, figure
from write_batcher.compare.report.measures import Measure, measure
from write_batcher.compare.report.vega_lite import BarPanel
from write_batcher.compare.results import Contender, Run, Scenario

TABLE_POINTS = 30
"""Of one series in a table of the page; all are in results.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTable:
    """What a chart is drawn from."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A section of the report. `key` names its picture."""

    key: str
    title: str
    asks: str
    """The question it answers, with what was done."""
    sees: str
    """What to see, from the data."""
    chart: Callable[[int], ChartType]
    """Of a width in pixels."""
    data: DataTable


def bar_row(
    figures: Figures,
    scenario: Scenario,
    name: str,
    title: str,
    unit: str,
    label: Callable[[float], str] | None = None,
    remarks: Mapping[Contender, str] | None = None,
) -> list[BarPanel]:
    """A panel per database; empty when nobody has the figure. `remarks` stand behind labels."""
    remarks = remarks or {}
    row = measure(scenario, name)
    databases = figures.databases(scenario)
    panels = []
    for database in databases:
        rows = [
            {
                "contender": contender,
                "value": spread.middle,
                "low": spread.middle if row.is_harm else spread.low,
                "high": spread.middle if row.is_harm else spread.high,
                "label": (label(spread.middle) if label else figure(spread.middle, "number"))
                + remarks.get(contender, ""),
            }
            for contender, spread in figures.spreads(row, database).items()
        ]
        if rows:
            panels.append(BarPanel(title=title, database=database if len(databases) > 1 else "", unit=unit, rows=rows))
    return panels


def bar_data(grid: Sequence[Sequence[BarPanel]], further: Sequence[tuple[str, ...]] = ()) -> DataTable:
    """The table of bars, and what else belongs to them."""
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
    return DataTable(columns=("measure", "contender", "median", "lowest to highest"), rows=(*rows, *further))


def further_rows(figures: Figures, scenario: Scenario, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Figures of a scenario that no chart shows, for its table."""
    rows: list[tuple[str, ...]] = []
    for name in names:
        for database in figures.databases(scenario):
            row = Measure(scenario=scenario, label=name, figure=name, kind="number")
            rows += [
                (f"{name}, {database}", str(contender), _exact(spread.middle), _range(spread.low, spread.high))
                for contender, spread in figures.spreads(row, database).items()
            ]
    return rows


def _range(low: float, high: float) -> str:
    return ABSENT if low == high else f"{_exact(low)} to {_exact(high)}"


def _exact(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def first_rounds(figures: Figures, scenario: Scenario) -> list[Run]:
    """The first round of each contender and database: curves of several rounds laid over each other show nothing."""
    found: dict[tuple[Contender, str], Run] = {}
    for database in figures.databases(scenario):
        for contender in figures.contenders(scenario, database):
            for run in figures.of(scenario, contender, database):
                found.setdefault((contender, database), run)
    return list(found.values())


def samples_of(run: Run, name: str) -> list[float]:
    return numbers(run.samples.get(name, []))


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, -(-len(points) // TABLE_POINTS))
    return list(points[::step])


def rates_of(points: Sequence[tuple[float, float]], start: float) -> Iterator[tuple[float, float]]:
    """(seconds after `start`, rows per second from then on), each second or as often as was looked.

    The points hold how many rows there were in all; between two looks nothing is known to have happened. First and last
    second may be a part of one: all rows are in some.
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
