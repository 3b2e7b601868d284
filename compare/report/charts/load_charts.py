"""Load: how long callers wait, what the database goes through, what Temporal charges."""

from typing import Any

from write_batcher.compare.report.charts.chart_section import DataTable, Drawing, bar_data, bar_row, samples_of
from write_batcher.compare.report.figures import Figures, number, quantile
from write_batcher.compare.report.formatting import counted, figure, listed
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.prices import Price
from write_batcher.compare.report.vega_lite import Axis, LinePanel, bars, lines
from write_batcher.compare.results import Contender, Scenario

CURVE_POINTS = 150
"""Of a curve of latencies: more cannot be seen."""

MILLISECONDS = "datum.value >= 1000 ? format(datum.value / 1000, '~g') + ' s' : format(datum.value, '~g') + ' ms'"


def draw_latency(figures: Figures) -> Drawing | None:
    panels, rows, medians_told, ends_told = [], [], [], []
    databases = figures.databases(Scenario.LOAD)
    for database in databases:
        curve: list[dict[str, Any]] = []
        medians: dict[Contender, float] = {}
        for contender in figures.contenders(Scenario.LOAD, database):
            runs = figures.of(Scenario.LOAD, contender, database)
            latencies = sorted(value for run in runs for value in samples_of(run, "latency_ms") if value > 0)
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
                ends_told.append(
                    f"{contender} on {database} ends at {figure(reached, 'percent')}: the others of its workflows "
                    f"never got a receipt."
                )
        if curve:
            panels.append(LinePanel(title=database if len(databases) > 1 else "", rows=curve))
        if medians:
            quick, slow = min(medians, key=lambda one: medians[one]), max(medians, key=lambda one: medians[one])
            text = f"half of the callers had their receipt after {figure(medians[quick], 'ms')} with {quick}"
            compared = f" and after {figure(medians[slow], 'ms')} with {slow}" if slow is not quick else ""
            medians_told.append(f"On {database}, {text}{compared}.")
    if not panels:
        return None
    x = Axis(title="time from submit to receipt (log scale)", is_log=True, label=MILLISECONDS)
    y = Axis(title="workflows with their receipt", label="format(datum.value, '.0%')", domain=(0, 1))
    return Drawing(
        key="latency",
        title="How long a caller waits",
        asks="Share of all workflows that had their receipt after so long; all rounds together. "
        "Further left is faster, a curve that stays below 100% lost callers.",
        sees=" ".join(medians_told + ends_told),
        chart=lambda width: lines(panels, x, y, width),
        data=DataTable(
            columns=("database", "contender", "p10", "p50", "p90", "p99", "longest", "receipts", "of all workflows"),
            rows=tuple(rows),
        ),
    )


def draw_database(figures: Figures) -> Drawing | None:
    grid = [
        bar_row(figures, Scenario.LOAD, "transactions_per_100", "Transactions per 100 writes", "transactions"),
        bar_row(figures, Scenario.LOAD, "connections_peak", "Connections at once", "connections"),
        bar_row(figures, Scenario.LOAD, "database_errors", "Database errors", "errors"),
        bar_row(figures, Scenario.LOAD, "failed", "Workflows failed, all rounds", "workflows"),
    ]
    grid = [row for row in grid if row]
    if not grid:
        return None
    return Drawing(
        key="database",
        title="What the database goes through",
        asks=f"Many workflows at once, one write each.{_limits(figures)}",
        sees=_extremes(figures, "transactions_per_100", "{} transactions per 100 writes") + _failures(figures),
        chart=lambda width: bars(grid, width),
        data=bar_data(grid),
    )


def draw_actions(figures: Figures, price: Price) -> Drawing | None:
    def label(value: float) -> str:
        return f"{figure(value, 'number')} · {figure(price.of_million_writes(value), 'usd')}"

    row = bar_row(figures, Scenario.LOAD, "actions_per_write", "Temporal actions per write", "actions", label=label)
    if not row:
        return None
    return Drawing(
        key="actions",
        title="What Temporal charges",
        asks=f"Billable actions per write; behind the dot, USD per million writes at the list price of "
        f"{figure(price.usd_per_million_actions, 'usd')} per million actions. "
        "Batching by itself saves transactions, not actions; what saves actions is how the caller is told.",
        sees=_extremes(figures, "actions_per_write", "{} actions per write"),
        chart=lambda width: bars([row], width),
        data=bar_data([row]),
    )


def _extremes(figures: Figures, name: str, says: str) -> str:
    parts = []
    for database in figures.databases(Scenario.LOAD):
        spreads = figures.spreads(measure(Scenario.LOAD, name), database)
        if not spreads:
            continue
        least, most = (
            min(spreads, key=lambda one: spreads[one].middle),
            max(spreads, key=lambda one: spreads[one].middle),
        )
        low, high = (figure(spreads[one].middle, "number") for one in (least, most))
        if low != high:
            parts.append(f"On {database}, {least} needed {says.format(low)}, {most} {high}.")
        else:
            parts.append(f"On {database}, {listed(spreads)} needed {says.format(low)}.")
    return " ".join(parts)


def _limits(figures: Figures) -> str:
    limits: dict[float, list[str]] = {}
    for database in figures.databases(Scenario.LOAD):
        for limit in {number(run.figures.get("connection_limit")) for run in figures.of(Scenario.LOAD, None, database)}:
            if limit is not None:
                limits.setdefault(limit, []).append(database)
    return "".join(
        f" At most {figure(limit, 'count')} connections to {listed(names)}." for limit, names in limits.items()
    )


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
