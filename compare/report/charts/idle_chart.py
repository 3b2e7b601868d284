"""Idle: what a batcher costs while there is nothing to do."""

from write_batcher.compare.report.charts.chart_section import ChartSection, bar_panels, bar_table
from write_batcher.compare.report.figures import Figures
from write_batcher.compare.report.formatting import format_figure, listed
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.prices import Price
from write_batcher.compare.report.vega_lite import bar_chart
from write_batcher.compare.results import Scenario


def idle_chart(figures: Figures, price: Price) -> ChartSection | None:
    """Return the actions of an idle day and what a month of them costs; None when it was not measured."""

    def label(value: float) -> str:
        return f"{format_figure(value, 'about')} · {format_figure(price.of_month(value), 'usd')}"

    row = bar_panels(figures, Scenario.IDLE, "actions_per_day", "Temporal actions per idle day", "actions", label=label)
    if not row:
        return None
    spreads = figures.spreads(measure(Scenario.IDLE, "actions_per_day"))
    costs = [f"{format_figure(price.of_month(spread.middle), 'usd')} with {name}" for name, spread in spreads.items()]
    return ChartSection(
        key="idle",
        title="What it costs to wait",
        description="Actions that the batcher makes while nothing is written, extrapolated to a day; after the dot, US "
        "dollars per month at list price.",
        finding=f"A month of doing nothing costs {listed(costs)} at list price.",
        chart=lambda width: bar_chart([row], width),
        data=bar_table([row]),
    )
