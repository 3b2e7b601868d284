"""Bad records: whose callers fail."""

from write_batcher.compare.report.charts.chart_section import ChartSection, bar_panels, bar_table, rows_without_bars
from write_batcher.compare.report.figures import Figures
from write_batcher.compare.report.formatting import counted, format_figure, listed
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.vega_lite import bar_chart
from write_batcher.compare.results import Scenario


def poison_chart(figures: Figures) -> ChartSection | None:
    """Return the callers of good records that failed; None when it was not measured."""
    row = bar_panels(figures, Scenario.POISON, "failed_good", "Callers of good records that failed", "callers")
    if not row:
        return None
    bad = figures.spreads(measure(Scenario.POISON, "bad"))
    per_run = format_figure(max(spread.middle for spread in bad.values()), "count") if bad else ""
    how_many = f" {per_run} records per run are bad." if bad else ""
    return ChartSection(
        key="poison",
        title="Who is hurt by a bad record",
        description=f"Some workflows write a record that the database refuses.{how_many} Sum of all rounds.",
        finding=_finding(figures),
        chart=lambda width: bar_chart([row], width),
        data=bar_table([row], rows_without_bars(figures, Scenario.POISON, ("workflows", "bad", "failed"))),
    )


def _finding(figures: Figures) -> str:
    totals = figures.spreads(measure(Scenario.POISON, "failed_good"))
    harmless = [name for name, total in totals.items() if not total.middle]
    finding = f"With {listed(harmless)} only the callers of bad records failed." if harmless else ""
    for name, total in totals.items():
        if total.middle:
            finding += f" With {name}, {counted(total.middle, 'caller')} failed although their record was good."
    return finding.strip()
