"""Pressure: what growing loads do to the writes, and to another application on the same database."""

from collections.abc import Iterator
from statistics import median
from typing import Any

from write_batcher.compare.report.charts.chart_section import ChartSection, DataTable
from write_batcher.compare.report.figures import Figures, finite_numbers
from write_batcher.compare.report.formatting import format_figure, listed
from write_batcher.compare.report.vega_lite import Axis, LinePanel, line_chart, stacked
from write_batcher.compare.results import Contender, Run, Scenario

HARMED_TIMES = 10  # a p99 that so many times another one is worth a sentence
PANELS = (
    ("p99_ms", "p99 of the writes"),
    ("bystander_p99_ms", "p99 of the bystander"),
)
COLUMNS = (
    ("offered_per_s", "count"),
    ("committed", "count"),
    ("achieved_per_s", "count"),
    ("p50_ms", "ms"),
    ("p99_ms", "ms"),
    ("bystander_p99_ms", "ms"),
    ("errors", "count"),
    ("connections", "count"),
    ("transactions", "count"),
    ("database_cpu_ms_per_write", "ms"),
    ("wal_bytes_per_write", "bytes"),
)
OFFERED = Axis(title="writes offered per second", is_log=True, label="format(datum.value, ',')")
TOOK = Axis(
    title="milliseconds", is_log=True, label="datum.value < 1 ? format(datum.value, '~g') : format(datum.value, ',')"
)


def pressure_chart(figures: Figures) -> ChartSection | None:
    """Return what writes and another application wait, by the load that is offered; None when it was not measured."""
    databases = figures.databases(Scenario.PRESSURE)
    steps = {
        (contender, database): _steps(figures.runs_of(Scenario.PRESSURE, contender, database))
        for database in databases
        for contender in figures.contenders(Scenario.PRESSURE, database)
    }
    grid = [
        [
            LinePanel(title=f"{title}, {database}" if len(databases) > 1 else title, rows=rows)
            for name, title in PANELS
            if (rows := list(_rows(steps, database, name)))
        ]
        for database in databases
    ]
    grid = [row for row in grid if row]
    if not grid:
        return None
    return ChartSection(
        key="pressure",
        title="What a growing load does",
        description="Writes are offered at a steady rate, whether the earlier ones are done or not, without caller "
        "workflows; another application, the bystander, reads and updates single rows of the same database. 99 % take "
        "less than the p99, from the offer to the commit; what is not committed counts as long as was waited for it. A "
        "line ends where a design commits less than half of what is offered within six seconds. Lower is better.",
        finding=_finding(steps, databases),
        chart=lambda width: stacked(*(line_chart(row, OFFERED, TOOK, width) for row in grid)),
        data=DataTable(
            columns=("database", "contender", *(name for name, _ in COLUMNS)),
            rows=tuple(
                (
                    database,
                    str(contender),
                    *(format_figure(step[name], kind) for name, kind in COLUMNS),
                )
                for (contender, database), found in steps.items()
                for step in found
            ),
        ),
    )


def _steps(runs: list[Run]) -> list[dict[str, Any]]:
    """The medians of all rounds, step by step."""
    by_rate: dict[float, list[dict[str, Any]]] = {}
    for run in runs:
        for step in run.samples.get("steps", []):
            by_rate.setdefault(step["offered_per_s"], []).append(step)
    return [{name: _median(steps, name) for name, _ in COLUMNS} for _, steps in sorted(by_rate.items())]


def _median(steps: list[dict[str, Any]], name: str) -> float | None:
    values = finite_numbers(step.get(name) for step in steps)
    return median(values) if values else None


Steps = dict[tuple[Contender, str], list[dict[str, Any]]]


def _rows(steps: Steps, database: str, name: str) -> Iterator[dict[str, Any]]:
    for (contender, where), found in steps.items():
        for step in found if where == database else ():
            if step[name]:
                yield {"contender": contender, "x": step["offered_per_s"], "y": step[name]}


def _finding(steps: Steps, databases: list[str]) -> str:
    sentences = []
    for database in databases:
        here = {contender: found for (contender, where), found in steps.items() if where == database}
        if Contender.QUEUE_PACED not in here:
            continue
        for name, whose in (("p99_ms", "writes wait"), ("bystander_p99_ms", "the other application waits")):
            told = [
                sentence
                for contender, found in here.items()
                if contender is not Contender.QUEUE_PACED
                and (sentence := _harmed(contender, found, here[Contender.QUEUE_PACED], name))
            ]
            if told:
                sentences.append(f"On {database}, {whose} {listed(told)}.")
    return " ".join(sentences)


def _harmed(contender: Contender, found: list[dict[str, Any]], paced: list[dict[str, Any]], name: str) -> str | None:
    """From which rate on a design is far worse than the paced queue; None when it never is."""
    reference = {step["offered_per_s"]: step[name] for step in paced}
    for step in found:
        theirs, ours = step[name], reference.get(step["offered_per_s"])
        if theirs and ours and theirs >= HARMED_TIMES * ours:
            return (
                f"{format_figure(theirs, 'ms')} with {contender} at {format_figure(step['offered_per_s'], 'count')} "
                f"writes/s, where queue-paced needs {format_figure(ours, 'ms')}"
            )
    return None
