"""Ceiling: how much one batcher writes."""

from write_batcher.compare.report.charts.chart_section import (
    ChartSection,
    bar_panels,
    bar_table,
    first_rounds,
    rows_without_bars,
)
from write_batcher.compare.report.figures import Figures, points_of
from write_batcher.compare.report.formatting import format_figure, listed
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.vega_lite import BARS_LEFT_PX, Axis, Chart, LinePanel, bar_chart, line_chart, stacked
from write_batcher.compare.results import Scenario

ROWS_AXIS = Axis(title="rows", label="format(datum.value, ',')")


def ceiling_chart(figures: Figures) -> ChartSection | None:
    """Return writes per second and the rows over time; None when the ceiling was not measured."""
    # "or more" is short enough for phones; the finding below it says why.
    remarks = dict.fromkeys(figures.limited_by_producers(), " or more")
    row = bar_panels(
        figures, Scenario.CEILING, "writes_per_s", "Writes per second", "writes per second", remarks=remarks
    )
    if not row:
        return None
    written = _rows_written(figures)

    def chart(width: int) -> Chart:
        speed = bar_chart([row], width)
        if not written:
            return speed
        return stacked(speed, line_chart(written, Axis(title="seconds"), ROWS_AXIS, width, BARS_LEFT_PX))

    return ChartSection(
        key="ceiling",
        title="How much one batcher writes",
        description="Producers push as fast as they can, without caller workflows.",
        finding=_finding(figures),
        chart=chart,
        data=bar_table([row], rows_without_bars(figures, Scenario.CEILING, ("offered", "accepted", "refused", "rows"))),
    )


def _finding(figures: Figures) -> str:
    rates = figures.spreads(measure(Scenario.CEILING, "writes_per_s"))
    finding = ""
    if len(rates) > 1:
        best, worst = max(rates, key=lambda one: rates[one].middle), min(rates, key=lambda one: rates[one].middle)
        finding = f"{best} wrote {format_figure(rates[best].middle, 'count')} rows per second"
        if rates[worst].middle > 0:
            times = format_figure(rates[best].middle / rates[worst].middle, "number")
            finding += f", {times} times as many as {worst} ({format_figure(rates[worst].middle, 'count')})"
        finding += "."
    for contender, refused in figures.spreads(measure(Scenario.CEILING, "refused")).items():
        if refused.middle:
            finding += f" {contender} refused {format_figure(refused.middle, 'count')} requests."
    if limited := figures.limited_by_producers():
        finding += f" {listed(limited)} wrote as fast as the producers pushed: how much it can write is not known."
    return finding.strip()


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
