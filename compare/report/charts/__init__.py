"""The charts of the report, one scenario a file."""

from write_batcher.compare.report.charts.ceiling_chart import ceiling_chart
from write_batcher.compare.report.charts.chart_section import ChartSection
from write_batcher.compare.report.charts.crash_chart import crash_chart
from write_batcher.compare.report.charts.growth_chart import growth_chart
from write_batcher.compare.report.charts.idle_chart import idle_chart
from write_batcher.compare.report.charts.load_charts import actions_chart, database_chart, latency_chart
from write_batcher.compare.report.charts.poison_chart import poison_chart
from write_batcher.compare.report.charts.pressure_chart import pressure_chart
from write_batcher.compare.report.figures import Figures
from write_batcher.compare.report.prices import Price


def chart_sections(figures: Figures, price: Price) -> list[ChartSection]:
    """Return a section for every chart whose scenario was measured, in the order of the page."""
    sections = (
        pressure_chart(figures),
        latency_chart(figures),
        database_chart(figures),
        growth_chart(figures),
        actions_chart(figures, price),
        ceiling_chart(figures),
        crash_chart(figures),
        poison_chart(figures),
        idle_chart(figures, price),
    )
    return [section for section in sections if section]
