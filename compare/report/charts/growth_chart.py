"""Growth: how the history of the batcher grows while writes keep coming."""

from typing import Any

from write_batcher.compare.report.charts.chart_section import ChartSection, DataTable, first_rounds, thinned
from write_batcher.compare.report.figures import Figures, points_of
from write_batcher.compare.report.formatting import counted, format_figure, listed
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.vega_lite import Axis, LinePanel, line_chart
from write_batcher.compare.results import Scenario

# Where Temporal suggests continue-as-new by default: `limit.historyCount.suggestContinueAsNew`.
CONTINUE_AS_NEW_EVENTS = 4096


def growth_chart(figures: Figures) -> ChartSection | None:
    """Return the events in the history of the batcher over time; None when growth was not measured."""
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
            level = (CONTINUE_AS_NEW_EVENTS, "Temporal suggests continue-as-new") if most > 1000 else None
            panels.append(LinePanel(title=database if len(databases) > 1 else "", rows=series, level=level))
    if not panels:
        return None
    return ChartSection(
        key="growth",
        title="How the batcher's history grows",
        description="Events in the history of the batcher's workflow while writes keep coming; first round. "
        "A saw-tooth continues as new again and again; a flat line does not grow with the writes.",
        finding=_finding(figures),
        chart=lambda width: line_chart(
            panels,
            Axis(title="seconds"),
            Axis(title="events in the current run", label="format(datum.value, ',')"),
            width,
        ),
        data=DataTable(columns=("database", "contender", "seconds", "events"), rows=tuple(rows)),
    )


def _finding(figures: Figures) -> str:
    names_by_text: dict[str, list[str]] = {}
    for contender, longest in figures.spreads(measure(Scenario.GROWTH, "max_events")).items():
        continued = figures.spread(measure(Scenario.GROWTH, "continued_as_new"), contender)
        text = f"never had more than {format_figure(longest.high, 'events')}"
        if continued and continued.middle:
            times = counted(continued.middle, "time")
            text = f"grew to {format_figure(longest.high, 'events')} and continued as new {times}"
        names_by_text.setdefault(text, []).append(contender)
    return " ".join(f"{listed(names)} {text}." for text, names in names_by_text.items())
