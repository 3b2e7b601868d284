"""What the report shows of each scenario: a chart, a sentence that says what to see, and the data as a table."""

from typing import Any

from altair.typing import ChartType

from write_batcher.compare.report.charts.chart_section import (
    DataTable,
    Drawing,
    bar_data,
    bar_row,
    first_rounds,
    further_rows,
    rates_of,
    thinned,
)
from write_batcher.compare.report.charts.load_charts import draw_actions, draw_database, draw_latency
from write_batcher.compare.report.figures import Figures, number, number_of, points_of
from write_batcher.compare.report.formatting import counted, figure, listed
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.prices import Price
from write_batcher.compare.report.vega_lite import BARS_LEFT_PX, Axis, LinePanel, StepPanel, bars, below, lines, steps
from write_batcher.compare.report.verdict import harm
from write_batcher.compare.results import Scenario

CONTINUE_AS_NEW_EVENTS = 4096
"""Where Temporal's server suggests to continue as new: `limit.historyCount.suggestContinueAsNew`."""

ROWS = Axis(title="rows", label="format(datum.value, ',')")


def drawings(figures: Figures, price: Price) -> list[Drawing]:
    """One for everything that was measured."""
    made = (
        draw_latency(figures),
        draw_database(figures),
        _draw_growth(figures),
        draw_actions(figures, price),
        _draw_ceiling(figures),
        _draw_crash(figures),
        _draw_poison(figures),
        _draw_idle(figures, price),
    )
    return [drawing for drawing in made if drawing]


def _draw_growth(figures: Figures) -> Drawing | None:
    runs = first_rounds(figures, Scenario.GROWTH)
    databases = figures.databases(Scenario.GROWTH)
    panels, rows = [], []
    for database in databases:
        series: list[dict[str, Any]] = []
        for run in (run for run in runs if run.database == database):
            points = points_of(run, "events")
            series += [{"contender": run.contender, "x": second, "y": events} for second, events in points]
            rows += [
                (database, str(run.contender), f"{second:g}", f"{events:,.0f}") for second, events in thinned(points)
            ]
        if series:
            most = max(row["y"] for row in series)
            level = (CONTINUE_AS_NEW_EVENTS, "Temporal suggests to continue as new") if most > 1000 else None
            panels.append(LinePanel(title=database if len(databases) > 1 else "", rows=series, level=level))
    if not panels:
        return None
    told: dict[str, list[str]] = {}
    for contender, longest in figures.spreads(measure(Scenario.GROWTH, "max_events")).items():
        renewed = figures.spread(measure(Scenario.GROWTH, "continued_as_new"), contender)
        text = f"never had more than {figure(longest.high, 'events')}"
        if renewed and renewed.middle:
            times = counted(renewed.middle, "time")
            text = f"grew to {figure(longest.high, 'events')} and continued as new {times}"
        told.setdefault(text, []).append(contender)
    return Drawing(
        key="growth",
        title="How the batcher's history grows",
        asks="Events in the history of the batcher's workflow while writes keep coming; first round. "
        "A saw-tooth continues as new again and again, a flat line does not grow with the writes.",
        sees=" ".join(f"{listed(names)} {text}." for text, names in told.items()),
        chart=lambda width: lines(
            panels,
            Axis(title="seconds"),
            Axis(title="events in the current run", label="format(datum.value, ',')"),
            width,
        ),
        data=DataTable(columns=("database", "contender", "seconds", "events"), rows=tuple(rows)),
    )


def _draw_ceiling(figures: Figures) -> Drawing | None:
    limits = dict.fromkeys(figures.limited(), " or more")  # short, for telephones; below it is said why
    row = bar_row(figures, Scenario.CEILING, "writes_per_s", "Writes per second", "writes per second", remarks=limits)
    if not row:
        return None
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
    for name, one in refused.items():
        if one.middle:
            sees += f" {name} refused {figure(one.middle, 'count')}."
    if limits:
        sees += f" {listed(limits)} wrote as fast as the producers pushed: what it could write at most is not known."
    written = _rows_written(figures)

    def chart(width: int) -> ChartType:
        speed = bars([row], width)
        return below(speed, lines(written, Axis(title="seconds"), ROWS, width, BARS_LEFT_PX)) if written else speed

    return Drawing(
        key="ceiling",
        title="How much one batcher writes",
        asks="Producers push as fast as they can, without workflows that call.",
        sees=sees.strip(),
        chart=chart,
        data=bar_data([row], further_rows(figures, Scenario.CEILING, ("offered", "accepted", "refused", "rows"))),
    )


def _rows_written(figures: Figures) -> list[LinePanel]:
    databases = figures.databases(Scenario.CEILING)
    panels = []
    for database in databases:
        rows = [
            {"contender": run.contender, "x": second, "y": written}
            for run in first_rounds(figures, Scenario.CEILING)
            if run.database == database
            for second, written in points_of(run, "rows")
        ]
        if rows:
            title = "Rows written so far, first round"
            panels.append(LinePanel(title=f"{title}, {database}" if len(databases) > 1 else title, rows=rows))
    return panels


def _draw_crash(figures: Figures) -> Drawing | None:
    panels, rows, parts = [], [], []
    several = len(figures.databases(Scenario.CRASH)) > 1
    for run in first_rounds(figures, Scenario.CRASH):
        killed = number(run.figures.get("killed_at_s"))
        rates = list(rates_of(points_of(run, "rows"), start=killed or 0.0))
        if not rates:
            continue
        restarted = number(run.figures.get("restarted_at_s"))
        band = (0.0, restarted - killed) if killed is not None and restarted is not None else None
        name = f"{run.contender}, {run.database}" if several else str(run.contender)
        caught_up = number_of(run, "caught_up_s")
        back = "" if caught_up is None else f", done after {figure(caught_up, 's')}"
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
    for name, says in (
        ("caught_up_s", "From the kill until all writes were there it took {} (median of all rounds)."),
        ("recovery_s", "The first write after it was made after {}."),
    ):
        if spreads := figures.spreads(measure(Scenario.CRASH, name)):
            told = [f"{figure(spread.middle, 's')} with {contender}" for contender, spread in spreads.items()]
            parts.append(says.format(listed(told)))
    for contender in figures.contenders(Scenario.CRASH):
        if figures.harmed(Scenario.CRASH, contender):
            parts.append(f"{contender} {harm(figures, Scenario.CRASH, contender)}.")
    return Drawing(
        key="crash",
        title="What a crash costs",
        asks="Writes per second before, while and after the process that writes is killed (0 s) and started again, "
        "the shaded time; first round. The process of direct runs its workflows as well, and they wait with it.",
        sees=" ".join(parts),
        chart=lambda width: steps(panels, Axis(title="seconds since the kill"), Axis(title="writes/s"), width),
        data=DataTable(columns=("database", "contender", "second", "writes per second"), rows=tuple(rows)),
    )


def _draw_poison(figures: Figures) -> Drawing | None:
    row = bar_row(figures, Scenario.POISON, "failed_good", "Callers of good records that failed", "callers")
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
        asks=f"Some workflows write a record that the database refuses.{each} Sum of all rounds.",
        sees=sees.strip(),
        chart=lambda width: bars([row], width),
        data=bar_data([row], further_rows(figures, Scenario.POISON, ("workflows", "bad", "failed"))),
    )


def _draw_idle(figures: Figures, price: Price) -> Drawing | None:
    def label(value: float) -> str:
        return f"{figure(value, 'about')} · {figure(price.of_month(value), 'usd')}"

    row = bar_row(figures, Scenario.IDLE, "actions_per_day", "Temporal actions per idle day", "actions", label=label)
    if not row:
        return None
    spreads = figures.spreads(measure(Scenario.IDLE, "actions_per_day"))
    told = [f"{figure(price.of_month(spread.middle), 'usd')} with {name}" for name, spread in spreads.items()]
    return Drawing(
        key="idle",
        title="What it costs to wait",
        asks="Nothing is written: actions that the batcher makes all the same, extrapolated to a day; behind the dot, "
        "USD per month at list price.",
        sees=f"A month of doing nothing costs {listed(told)} at list price.",
        chart=lambda width: bars([row], width),
        data=bar_data([row]),
    )
