"""What the report shows of each scenario: a chart, a sentence that says what to see, and the data as a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from write_batcher.compare.report.charts import Axis, BarPanel, LinePanel, StepPanel, bars, lines, steps
from write_batcher.compare.report.figures import Figures, measure, number, numbers, quantile
from write_batcher.compare.report.prices import Price
from write_batcher.compare.report.verdict import harm
from write_batcher.compare.report.words import ABSENT, counted, figure, listed
from write_batcher.compare.results import Contender, Run, Scenario

CURVE_POINTS = 150
"""Of a curve of latencies: more cannot be seen."""
TABLE_POINTS = 30
"""Of one series in a table of the page; all are in results.json."""
CONTINUE_AS_NEW_EVENTS = 4096
"""Where Temporal's server suggests to continue as new: `limit.historyCount.suggestContinueAsNew`."""

MILLISECONDS = "datum.value >= 1000 ? format(datum.value / 1000, '~g') + ' s' : format(datum.value, '~g') + ' ms'"


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
    chart: Callable[[int], alt.TopLevelMixin]
    """Of a width in pixels."""
    data: DataTable


def drawings(figures: Figures, price: Price) -> list[Drawing]:
    """One for everything that was measured."""
    made = (
        _latency(figures),
        _database(figures),
        _growth(figures),
        _actions(figures, price),
        _ceiling(figures),
        _crash(figures),
        _poison(figures),
        _idle(figures, price),
    )
    return [drawing for drawing in made if drawing]


def _latency(figures: Figures) -> Drawing | None:
    panels, rows, parts = [], [], []
    databases = figures.databases(Scenario.LOAD)
    for database in databases:
        curve: list[dict[str, Any]] = []
        medians: dict[Contender, float] = {}
        for contender in figures.contenders(Scenario.LOAD, database):
            runs = figures.of(Scenario.LOAD, contender, database)
            latencies = sorted(value for run in runs for value in _samples(run, "latency_ms") if value > 0)
            if not latencies:
                continue
            workflows = figures.total(Scenario.LOAD, "workflows", contender, database)
            # A workflow that failed never had its receipt: its share is missing from the curve for ever.
            reached = min(1.0, len(latencies) / workflows) if workflows else 1.0
            shares = [step / CURVE_POINTS for step in range(CURVE_POINTS + 1)]
            curve += [{"contender": contender, "x": quantile(latencies, one), "y": one * reached} for one in shares]
            medians[contender] = quantile(latencies, 0.5)
            told = [figure(quantile(latencies, one), "ms") for one in (0.1, 0.5, 0.9, 0.99, 1)]
            rows.append((database, contender, *told, f"{len(latencies):,}", figure(reached, "percent")))
            if reached < 1:
                parts.append(
                    f"{contender} on {database} ends at {figure(reached, 'percent')}: the others of its workflows "
                    f"never got a receipt."
                )
        if curve:
            panels.append(LinePanel(title=database if len(databases) > 1 else "", rows=curve))
        if len(medians) > 1:
            quick, slow = min(medians, key=lambda one: medians[one]), max(medians, key=lambda one: medians[one])
            parts.insert(
                0,
                f"On {database}, half of the callers had their receipt after {figure(medians[quick], 'ms')} with {quick} "
                f"and after {figure(medians[slow], 'ms')} with {slow}.",
            )
    if not panels:
        return None
    x = Axis(title="time from submit to receipt (log scale)", is_log=True, label=MILLISECONDS)
    y = Axis(title="workflows with their receipt", label="format(datum.value, '.0%')", domain=(0, 1))
    return Drawing(
        key="latency",
        title="How long a caller waits",
        asks="Share of all workflows that had their receipt after so long; all rounds together. "
        "Further left is faster, a curve that stays below 100 % lost callers.",
        sees=" ".join(parts),
        chart=lambda width: lines(panels, x, y, width),
        data=DataTable(
            columns=("database", "contender", "p10", "p50", "p90", "p99", "longest", "receipts", "of all workflows"),
            rows=tuple(rows),
        ),
    )


def _database(figures: Figures) -> Drawing | None:
    grid = [
        _bar_row(figures, Scenario.LOAD, "transactions_per_100", "transactions per 100 writes"),
        _bar_row(figures, Scenario.LOAD, "connections_peak", "connections at once"),
        _bar_row(figures, Scenario.LOAD, "database_errors", "database errors"),
        _bar_row(figures, Scenario.LOAD, "failed", "workflows failed, all rounds"),
    ]
    grid = [row for row in grid if row]
    if not grid:
        return None
    limits = {
        f"{figure(limit, 'count')} on {run.database}"
        for run in figures.of(Scenario.LOAD)
        if (limit := number(run.figures.get("connection_limit"))) is not None
    }
    limit = f" The database takes {listed(sorted(limits))} connections at once." if limits else ""
    return Drawing(
        key="database",
        title="What the database goes through",
        asks=f"Many workflows at once, one write each.{limit}",
        sees=_extremes(figures, "transactions_per_100", "{} transactions per 100 writes") + _failures(figures),
        chart=lambda width: bars(grid, width),
        data=_bar_data(grid),
    )


def _growth(figures: Figures) -> Drawing | None:
    runs = _first_rounds(figures, Scenario.GROWTH)
    databases = figures.databases(Scenario.GROWTH)
    panels, rows = [], []
    for database in databases:
        series: list[dict[str, Any]] = []
        for run in (run for run in runs if run.database == database):
            points = _points(run, "events")
            series += [{"contender": run.contender, "x": second, "y": events} for second, events in points]
            rows += [
                (database, str(run.contender), f"{second:g}", f"{events:,.0f}") for second, events in _thinned(points)
            ]
        if series:
            most = max(row["y"] for row in series)
            level = (CONTINUE_AS_NEW_EVENTS, "Temporal suggests to continue as new") if most > 1000 else None
            panels.append(LinePanel(title=database if len(databases) > 1 else "", rows=series, level=level))
    if not panels:
        return None
    parts = []
    for contender, longest in figures.spreads(measure(Scenario.GROWTH, "max_events")).items():
        renewed = figures.spread(measure(Scenario.GROWTH, "continued_as_new"), contender)
        text = f"{contender} never had more than {figure(longest.high, 'events')} in its history"
        if renewed and renewed.middle:
            text = (
                f"{contender} grew to {figure(longest.high, 'events')} "
                f"and continued as new {counted(renewed.middle, 'time')}"
            )
        parts.append(text)
    return Drawing(
        key="growth",
        title="How the batcher's history grows",
        asks="Events in the history of the batcher's workflow while writes keep coming; first round. "
        "A saw-tooth continues as new again and again, a flat line does not grow with the writes.",
        sees=f"{'; '.join(parts)}." if parts else "",
        chart=lambda width: lines(
            panels,
            Axis(title="seconds"),
            Axis(title="events in the current run", label="format(datum.value, ',')"),
            width,
        ),
        data=DataTable(columns=("database", "contender", "seconds", "events"), rows=tuple(rows)),
    )


def _actions(figures: Figures, price: Price) -> Drawing | None:
    def label(value: float) -> str:
        return f"{figure(value, 'number')} · {figure(price.of_million_writes(value), 'usd')}"

    row = _bar_row(figures, Scenario.LOAD, "actions_per_write", "Temporal actions per write", label=label)
    if not row:
        return None
    return Drawing(
        key="actions",
        title="What Temporal charges",
        asks=f"Billable actions per write, and USD per million writes at the list price of "
        f"{figure(price.usd_per_million_actions, 'usd')} per million actions.",
        sees=_extremes(figures, "actions_per_write", "{} actions per write")
        + " Batching by itself saves transactions, not actions; what saves actions is how the caller is told.",
        chart=lambda width: bars([row], width),
        data=_bar_data([row]),
    )


def _ceiling(figures: Figures) -> Drawing | None:
    row = _bar_row(figures, Scenario.CEILING, "writes_per_s", "writes per second")
    if not row:
        return None
    data = _bar_data([row], more=(("offered", "offered"), ("accepted", "accepted"), ("refused", "refused")), of=figures)
    rates = figures.spreads(measure(Scenario.CEILING, "writes_per_s"))
    sees = ""
    if len(rates) > 1:
        best, worst = max(rates, key=lambda one: rates[one].middle), min(rates, key=lambda one: rates[one].middle)
        sees = f"{best} wrote {figure(rates[best].middle, 'count')} rows per second"
        if rates[worst].middle > 0:
            times = rates[best].middle / rates[worst].middle
            sees += f", {figure(times, 'number')} times as many as {worst} ({figure(rates[worst].middle, 'count')})"
        sees += "."
    refused = figures.spreads(measure(Scenario.CEILING, "refused"))
    if turned_away := [f"{figure(one.middle, 'count')} by {name}" for name, one in refused.items() if one.middle]:
        sees += f" Refused were {listed(turned_away)}."
    return Drawing(
        key="ceiling",
        title="How much one batcher can write",
        asks="Producers push as fast as they can, without workflows that call.",
        sees=sees.strip(),
        chart=lambda width: bars([row], width),
        data=data,
    )


def _crash(figures: Figures) -> Drawing | None:
    panels, rows, parts = [], [], []
    several = len(figures.databases(Scenario.CRASH)) > 1
    for run in _first_rounds(figures, Scenario.CRASH):
        killed = number(run.figures.get("killed_at_s"))
        rates = list(_rates(_points(run, "rows"), start=killed or 0.0))
        if not rates:
            continue
        restarted = number(run.figures.get("restarted_at_s"))
        band = (0.0, restarted - killed) if killed is not None and restarted is not None else None
        name = f"{run.contender}, {run.database}" if several else str(run.contender)
        recovery = number(run.figures.get("recovery_s"))
        back = "" if recovery is None else f": writes go on {figure(recovery, 's')} after the kill"
        panels.append(
            StepPanel(
                title=f"{name}{back}",
                contender=run.contender,
                rows=[{"x": second, "y": rate} for second, rate in rates],
                band=band,
            )
        )
        rows += [(run.database, str(run.contender), f"{second:g}", figure(rate, "number")) for second, rate in rates]
    if not panels:
        return None
    recoveries = figures.spreads(measure(Scenario.CRASH, "recovery_s"))
    if recoveries:
        told = [f"{figure(spread.middle, 's')} with {name}" for name, spread in recoveries.items()]
        parts.append(f"From the kill to the next committed write it took {listed(told)} (median of all rounds).")
    for contender in figures.contenders(Scenario.CRASH):
        if figures.harmed(Scenario.CRASH, contender):
            parts.append(f"{contender} {harm(figures, Scenario.CRASH, contender)}.")
    return Drawing(
        key="crash",
        title="What a crash costs",
        asks="Writes per second before, while and after the process that writes is killed (0 s) and started again, "
        "the shaded time; first round.",
        sees=" ".join(parts),
        chart=lambda width: steps(panels, Axis(title="seconds since the kill"), Axis(title="writes/s"), width),
        data=DataTable(columns=("database", "contender", "second", "writes per second"), rows=tuple(rows)),
    )


def _poison(figures: Figures) -> Drawing | None:
    row = _bar_row(figures, Scenario.POISON, "failed_good", "callers failed although their record was good, all rounds")
    if not row:
        return None
    totals = figures.spreads(measure(Scenario.POISON, "failed_good"))
    unharmed = [name for name, total in totals.items() if not total.middle]
    sees = f"With {listed(unharmed)} only the callers of bad records failed." if unharmed else ""
    for name, total in totals.items():
        if total.middle:
            sees += (
                f" With {name}, {counted(total.middle, 'caller')} failed although nothing was wrong with their record."
            )
    bad = figures.spreads(measure(Scenario.POISON, "bad"))
    each = f" {figure(max(spread.middle for spread in bad.values()), 'count')} records per run are bad." if bad else ""
    return Drawing(
        key="poison",
        title="Whom a bad record hurts",
        asks=f"Some workflows write a record that the database refuses.{each}",
        sees=sees.strip(),
        chart=lambda width: bars([row], width),
        data=_bar_data([row]),
    )


def _idle(figures: Figures, price: Price) -> Drawing | None:
    def label(value: float) -> str:
        return f"{figure(value, 'count')} · {figure(price.of_month(value), 'usd')} a month"

    row = _bar_row(figures, Scenario.IDLE, "actions_per_day", "Temporal actions per idle day", label=label)
    if not row:
        return None
    spreads = figures.spreads(measure(Scenario.IDLE, "actions_per_day"))
    told = [f"{figure(price.of_month(spread.middle), 'usd')} with {name}" for name, spread in spreads.items()]
    return Drawing(
        key="idle",
        title="What it costs to wait",
        asks="Nothing is written: actions that the batcher makes all the same, extrapolated to a day.",
        sees=f"A month of doing nothing costs {listed(told)} at list price.",
        chart=lambda width: bars([row], width),
        data=_bar_data([row]),
    )


def _bar_row(
    figures: Figures, scenario: Scenario, name: str, unit: str, label: Callable[[float], str] | None = None
) -> list[BarPanel]:
    """A panel per database; empty when nobody has the figure."""
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
                "label": label(spread.middle) if label else figure(spread.middle, "number"),
            }
            for contender, spread in figures.spreads(row, database).items()
        ]
        if rows:
            panels.append(BarPanel(title=database if len(databases) > 1 else "", unit=unit, rows=rows))
    return panels


def _bar_data(
    grid: Sequence[Sequence[BarPanel]], more: Sequence[tuple[str, str]] = (), of: Figures | None = None
) -> DataTable:
    rows = []
    for panel in (panel for row in grid for panel in row):
        for row in panel.rows:
            spread = "" if row["low"] == row["high"] else f"{_exact(row['low'])} to {_exact(row['high'])}"
            measured = ", ".join(part for part in (panel.unit, panel.title) if part)
            rows.append((measured, str(row["contender"]), _exact(row["value"]), spread or ABSENT))
    for name, label in more:
        assert of is not None  # noqa: S101 - given with `more`
        rows += [
            (label, str(run.contender), _exact(value), f"round {run.round}, {run.database}")
            for run in of.of(Scenario.CEILING)
            if (value := number(run.figures.get(name))) is not None
        ]
    return DataTable(columns=("measure", "contender", "median", "lowest to highest"), rows=tuple(rows))


def _exact(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def _extremes(figures: Figures, name: str, says: str) -> str:
    parts = []
    for database in figures.databases(Scenario.LOAD):
        spreads = figures.spreads(measure(Scenario.LOAD, name), database)
        if len(spreads) < 2:
            continue
        least, most = (
            min(spreads, key=lambda one: spreads[one].middle),
            max(spreads, key=lambda one: spreads[one].middle),
        )
        low, high = (figure(spreads[one].middle, "number") for one in (least, most))
        if low != high:
            parts.append(f"On {database}, {least} needs {says.format(low)}, {most} {high}.")
        else:
            parts.append(f"On {database}, all need {says.format(low)}.")
    return " ".join(parts)


def _failures(figures: Figures) -> str:
    told = []
    for database in figures.databases(Scenario.LOAD):
        for contender in figures.contenders(Scenario.LOAD, database):
            failed = figures.total(Scenario.LOAD, "failed", contender, database)
            workflows = figures.total(Scenario.LOAD, "workflows", contender, database)
            if failed:
                share = f" of {workflows:,.0f}" if workflows else ""
                told.append(f" With {contender} on {database}, {counted(failed, 'workflow')}{share} failed.")
    return "".join(told)


def _first_rounds(figures: Figures, scenario: Scenario) -> list[Run]:
    """The first round of each contender and database: curves of several rounds laid over each other show nothing."""
    found: dict[tuple[Contender, str], Run] = {}
    for database in figures.databases(scenario):
        for contender in figures.contenders(scenario, database):
            for run in figures.of(scenario, contender, database):
                found.setdefault((contender, database), run)
    return list(found.values())


def _samples(run: Run, name: str) -> list[float]:
    return numbers(run.samples.get(name, []))


def _points(run: Run, field: str) -> list[tuple[float, float]]:
    """(second, figure) of each point that has both, in order."""
    pairs = [
        (number(point.get("s")), number(point.get(field)))
        for point in run.samples.get("points", [])
        if isinstance(point, Mapping)
    ]
    return sorted((second, value) for second, value in pairs if second is not None and value is not None)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, -(-len(points) // TABLE_POINTS))
    return list(points[::step])


def _rates(points: Sequence[tuple[float, float]], start: float) -> Iterator[tuple[float, float]]:
    """(seconds after `start`, rows per second from then on), each second or as often as was looked.

    The points hold how many rows there were in all; between two looks nothing is known to have happened.
    """
    if len(points) < 2:
        return
    step = max(1.0, (points[-1][0] - points[0][0]) / (len(points) - 1))
    first = -int((start - points[0][0]) // step)
    last = int((points[-1][0] - start) // step)
    for index in range(first, last):
        low, high = (_rows_at(points, start + edge * step) for edge in (index, index + 1))
        yield index * step, max(0.0, high - low) / step
    yield last * step, 0.0


def _rows_at(points: Sequence[tuple[float, float]], second: float) -> float:
    return max((rows for when, rows in points if when <= second), default=0.0)
