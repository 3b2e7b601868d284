"""Crash: how writes stop and resume around it."""

from write_batcher.compare.report.charts.chart_section import ChartSection, DataTable, first_rounds, rates_of
from write_batcher.compare.report.figures import Figures, figure_of, finite, points_of
from write_batcher.compare.report.formatting import format_figure, listed
from write_batcher.compare.report.harm import describe_harm
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.vega_lite import Axis, StepPanel, step_chart
from write_batcher.compare.results import Scenario


def crash_chart(figures: Figures) -> ChartSection | None:
    """Return writes per second around the crash; None when it was not measured."""
    panels, rows = [], []
    several_databases = len(figures.databases(Scenario.CRASH)) > 1
    for run in first_rounds(figures, Scenario.CRASH):
        killed = finite(run.figures.get("killed_at_s"))
        rates = list(rates_of(points_of(run, "rows"), start=killed or 0.0))
        if not rates:
            continue
        restarted = finite(run.figures.get("restarted_at_s"))
        down = (0.0, restarted - killed) if killed is not None and restarted is not None else None
        name = f"{run.contender}, {run.database}" if several_databases else str(run.contender)
        caught_up = figure_of(run, "caught_up_s")
        done = "" if caught_up is None else f", done after {format_figure(caught_up, 's')}"
        panels.append(
            StepPanel(
                title=f"{name}{done}",
                contender=run.contender,
                rows=[{"x": second, "y": rate} for second, rate in rates],
                band=down,
            )
        )
        rows += [
            (run.database, str(run.contender), f"{second:g}", format_figure(rate, "number")) for second, rate in rates
        ]
    if not panels:
        return None
    return ChartSection(
        key="crash",
        title="What a crash costs",
        description="Writes per second around a crash: the process that writes is killed at 0 s, and the shaded time "
        "ends when it is started again; first round. The process of direct runs its workflows as well, and they wait "
        "with it.",
        finding=_finding(figures),
        chart=lambda width: step_chart(panels, Axis(title="seconds since the kill"), Axis(title="writes/s"), width),
        data=DataTable(columns=("database", "contender", "second", "writes per second"), rows=tuple(rows)),
    )


def _finding(figures: Figures) -> str:
    parts = []
    for name, template in (
        ("caught_up_s", "From the kill until all writes were there it took {} (median of all rounds)."),
        ("recovery_s", "Until the first of them it took {}."),
    ):
        if spreads := figures.spreads(measure(Scenario.CRASH, name)):
            told = [f"{format_figure(spread.middle, 's')} with {contender}" for contender, spread in spreads.items()]
            parts.append(template.format(listed(told)))
    for contender in figures.contenders(Scenario.CRASH):
        if figures.did_harm(Scenario.CRASH, contender):
            parts.append(f"{contender} {describe_harm(figures, Scenario.CRASH, contender)}.")
    return " ".join(parts)
