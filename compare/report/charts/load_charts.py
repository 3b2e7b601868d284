"""Load: how long callers wait, what the database goes through, what Temporal charges."""

from typing import Any

from write_batcher.compare.quantiles import quantile
from write_batcher.compare.report.charts.chart_section import (
    ChartSection,
    DataTable,
    bar_panels,
    bar_table,
    samples_of,
)
from write_batcher.compare.report.figures import Figures, finite
from write_batcher.compare.report.formatting import counted, format_figure, listed
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.prices import Price
from write_batcher.compare.report.vega_lite import Axis, LinePanel, bar_chart, line_chart
from write_batcher.compare.results import Contender, Scenario

CURVE_POINTS = 150  # per curve of latencies; more would not be visible

MILLISECONDS = "datum.value >= 1000 ? format(datum.value / 1000, '~g') + ' s' : format(datum.value, '~g') + ' ms'"


def latency_chart(figures: Figures) -> ChartSection | None:
    """Return the cumulative share of callers by their latency; None when load was not measured."""
    panels, rows, medians_told, ends_told = [], [], [], []
    databases = figures.databases(Scenario.LOAD)
    for database in databases:
        curve: list[dict[str, Any]] = []
        medians: dict[Contender, float] = {}
        for contender in figures.contenders(Scenario.LOAD, database):
            runs = figures.runs_of(Scenario.LOAD, contender, database)
            latencies = sorted(value for run in runs for value in samples_of(run, "latency_ms") if value > 0)
            if not latencies:
                continue
            workflows = figures.total(Scenario.LOAD, "workflows", contender, database)
            # Workflows that failed never had their receipt: the curve ends below 100%.
            reached = min(1.0, len(latencies) / workflows) if workflows else 1.0
            shares = [step / CURVE_POINTS for step in range(CURVE_POINTS + 1)]
            curve += [
                {"contender": contender, "x": quantile(latencies, share), "y": share * reached} for share in shares
            ]
            medians[contender] = quantile(latencies, 0.5)
            quantiles = [format_figure(quantile(latencies, share), "ms") for share in (0.1, 0.5, 0.9, 0.99, 1)]
            rows.append((database, contender, *quantiles, f"{len(latencies):,}", format_figure(reached, "percent")))
            if reached < 1:
                ends_told.append(
                    f"{contender} on {database} ends at {format_figure(reached, 'percent')}: its other workflows "
                    "never got a receipt."
                )
        if curve:
            panels.append(LinePanel(title=database if len(databases) > 1 else "", rows=curve))
        if medians:
            quick, slow = min(medians, key=lambda one: medians[one]), max(medians, key=lambda one: medians[one])
            text = f"half of the callers had their receipt after {format_figure(medians[quick], 'ms')} with {quick}"
            compared = f" and after {format_figure(medians[slow], 'ms')} with {slow}" if slow is not quick else ""
            medians_told.append(f"On {database}, {text}{compared}.")
    if not panels:
        return None
    x = Axis(title="time from submit to receipt (log scale)", is_log=True, label=MILLISECONDS)
    y = Axis(title="workflows with their receipt", label="format(datum.value, '.0%')", domain=(0, 1))
    return ChartSection(
        key="latency",
        title="How long a caller waits",
        description="Share of all workflows that had their receipt within this time; all rounds together. "
        "Further left is faster; a curve that stays below 100% lost callers.",
        finding=" ".join(medians_told + ends_told),
        chart=lambda width: line_chart(panels, x, y, width),
        data=DataTable(
            columns=("database", "contender", "p10", "p50", "p90", "p99", "longest", "receipts", "of all workflows"),
            rows=tuple(rows),
        ),
    )


def database_chart(figures: Figures) -> ChartSection | None:
    """Return transactions, connections, errors and failed workflows; None when load was not measured."""
    grid = [
        bar_panels(figures, Scenario.LOAD, "transactions_per_100", "Transactions per 100 writes", "transactions"),
        bar_panels(figures, Scenario.LOAD, "connections_peak", "Connections at once", "connections"),
        bar_panels(figures, Scenario.LOAD, "database_errors", "Database errors", "errors"),
        bar_panels(figures, Scenario.LOAD, "failed", "Workflows failed, all rounds", "workflows"),
    ]
    grid = [row for row in grid if row]
    if not grid:
        return None
    return ChartSection(
        key="database",
        title="What the database goes through",
        description=f"Many workflows at once, one write each.{_connection_limits(figures)}",
        finding=_extremes(figures, "transactions_per_100", "{} transactions per 100 writes") + _failures(figures),
        chart=lambda width: bar_chart(grid, width),
        data=bar_table(grid),
    )


def actions_chart(figures: Figures, price: Price) -> ChartSection | None:
    """Return Temporal actions per write and what they cost; None when they were not measured."""

    def label(value: float) -> str:
        return f"{format_figure(value, 'number')} · {format_figure(price.of_million_writes(value), 'usd')}"

    row = bar_panels(figures, Scenario.LOAD, "actions_per_write", "Temporal actions per write", "actions", label=label)
    if not row:
        return None
    return ChartSection(
        key="actions",
        title="What Temporal charges",
        description=f"Billable actions per write; after the dot, US dollars per million writes at the list price of "
        f"{format_figure(price.usd_per_million_actions, 'usd')} per million actions. "
        "Batching saves transactions, not actions: the number of actions depends on how callers get their receipts.",
        finding=_extremes(figures, "actions_per_write", "{} actions per write"),
        chart=lambda width: bar_chart([row], width),
        data=bar_table([row]),
    )


def _extremes(figures: Figures, name: str, template: str) -> str:
    parts = []
    for database in figures.databases(Scenario.LOAD):
        spreads = figures.spreads(measure(Scenario.LOAD, name), database)
        if not spreads:
            continue
        least, most = (
            min(spreads, key=lambda one: spreads[one].middle),
            max(spreads, key=lambda one: spreads[one].middle),
        )
        low, high = (format_figure(spreads[one].middle, "number") for one in (least, most))
        if low != high:
            parts.append(f"On {database}, {least} needed {template.format(low)}, {most} {high}.")
        else:
            parts.append(f"On {database}, {listed(spreads)} needed {template.format(low)}.")
    return " ".join(parts)


def _connection_limits(figures: Figures) -> str:
    limits: dict[float, list[str]] = {}
    for database in figures.databases(Scenario.LOAD):
        runs = figures.runs_of(Scenario.LOAD, None, database)
        for limit in {finite(run.figures.get("connection_limit")) for run in runs}:
            if limit is not None:
                limits.setdefault(limit, []).append(database)
    return "".join(
        f" At most {format_figure(limit, 'count')} connections to {listed(names)}." for limit, names in limits.items()
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
