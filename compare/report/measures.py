"""The measures of the summary, and which of them count as harm."""

from dataclasses import dataclass
from typing import Literal

from write_batcher.compare.results import BROKEN_PROMISES, Scenario

Better = Literal["less", "more"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A row of the summary."""

    scenario: Scenario
    label: str
    figure: str
    """Key in a run's figures."""
    kind: str
    """Its unit, see `format_figure`."""
    better: Better | None = None
    """None: neither, the figure only explains others."""
    is_harm: bool = False
    """Summed over rounds: a median would hide the one round that went wrong."""
    good_enough: float | None = None
    """Every value up to this one counts as equal to the best."""


def _harm(scenario: Scenario, label: str, figure: str) -> Measure:
    return Measure(scenario=scenario, label=label, figure=figure, kind="count", better="less", is_harm=True)


MEASURES = (
    Measure(
        scenario=Scenario.PRESSURE,
        label="Holds up to",
        figure="holds_up_to_per_s",
        kind="rate",
        better="more",
    ),
    Measure(
        scenario=Scenario.PRESSURE,
        label="Write p50 at the lowest rate",
        figure="quiet_p50_ms",
        kind="ms",
        better="less",
    ),
    Measure(scenario=Scenario.PRESSURE, label="Write p99 at 1,000/s", figure="busy_p99_ms", kind="ms", better="less"),
    Measure(
        scenario=Scenario.PRESSURE,
        label="Bystander's p99 at 1,000/s",
        figure="bystander_busy_p99_ms",
        kind="ms",
        better="less",
    ),
    Measure(scenario=Scenario.PRESSURE, label="Errors", figure="errors", kind="count", better="less"),
    _harm(Scenario.PRESSURE, "Rows duplicated", "duplicates"),
    _harm(Scenario.LOAD, "Workflows failed", "failed"),
    _harm(Scenario.LOAD, "Rows lost", "lost"),
    _harm(Scenario.LOAD, "Rows duplicated", "duplicates"),
    _harm(Scenario.LOAD, "Failed although written", "failed_written"),
    Measure(scenario=Scenario.LOAD, label="Latency p50", figure="latency_p50", kind="ms", better="less"),
    Measure(scenario=Scenario.LOAD, label="Latency p99", figure="latency_p99", kind="ms", better="less"),
    Measure(scenario=Scenario.LOAD, label="Writes per second", figure="writes_per_s", kind="rate", better="more"),
    Measure(
        scenario=Scenario.LOAD,
        label="Transactions per 100 writes",
        figure="transactions_per_100",
        kind="number",
        better="less",
        good_enough=10,  # below that it depends on when callers happen to arrive
    ),
    Measure(
        scenario=Scenario.LOAD, label="Connections at once", figure="connections_peak", kind="count", better="less"
    ),
    Measure(scenario=Scenario.LOAD, label="Database errors", figure="database_errors", kind="count", better="less"),
    Measure(
        scenario=Scenario.LOAD,
        label="Temporal actions per write",
        figure="actions_per_write",
        kind="number",
        better="less",
    ),
    Measure(
        scenario=Scenario.LOAD,
        label="History events per write",
        figure="events_per_write",
        kind="number",
        better="less",
    ),
    Measure(
        scenario=Scenario.LOAD, label="History size per write", figure="bytes_per_write", kind="bytes", better="less"
    ),
    Measure(
        scenario=Scenario.LOAD,
        label="Server CPU per workflow, in total",
        figure="server_cpu_ms_per_write",
        kind="ms",
        better="less",
    ),
    Measure(
        scenario=Scenario.LOAD,
        label="Worker CPU per workflow, in total",
        figure="worker_cpu_ms_per_write",
        kind="ms",
        better="less",
    ),
    Measure(scenario=Scenario.GROWTH, label="Longest history", figure="max_events", kind="events", better="less"),
    Measure(scenario=Scenario.GROWTH, label="Largest history", figure="max_bytes", kind="bytes", better="less"),
    Measure(scenario=Scenario.GROWTH, label="Continued as new", figure="continued_as_new", kind="count"),
    Measure(scenario=Scenario.CEILING, label="Writes per second", figure="writes_per_s", kind="rate", better="more"),
    Measure(scenario=Scenario.CEILING, label="Offered", figure="offered", kind="count"),
    Measure(scenario=Scenario.CEILING, label="Refused", figure="refused", kind="count"),
    _harm(Scenario.CEILING, "Rows duplicated", "duplicates"),
    Measure(
        scenario=Scenario.CRASH, label="Time until all writes are there", figure="caught_up_s", kind="s", better="less"
    ),
    # Not judged: the next write may be that of a caller that was not interrupted, while others still wait.
    Measure(scenario=Scenario.CRASH, label="Time until writes resume", figure="recovery_s", kind="s"),
    _harm(Scenario.CRASH, "Workflows failed", "failed"),
    _harm(Scenario.CRASH, "Rows lost", "lost"),
    _harm(Scenario.CRASH, "Rows duplicated", "duplicates"),
    _harm(Scenario.CRASH, "Failed although written", "failed_written"),
    Measure(scenario=Scenario.POISON, label="Bad records", figure="bad", kind="count"),
    _harm(Scenario.POISON, "Failed although record is good", "failed_good"),
    _harm(Scenario.POISON, "Rows duplicated", "duplicates"),
    _harm(Scenario.POISON, "Failed although written", "failed_written"),
    Measure(
        scenario=Scenario.IDLE, label="Actions per idle day", figure="actions_per_day", kind="about", better="less"
    ),
    Measure(scenario=Scenario.IDLE, label="Events per idle day", figure="events_per_day", kind="about", better="less"),
)

HARMS = {
    Scenario.LOAD: ("failed", *BROKEN_PROMISES),
    Scenario.CRASH: ("failed", *BROKEN_PROMISES),
    Scenario.POISON: ("failed_good", *BROKEN_PROMISES),
}


def measure(scenario: Scenario, figure: str) -> Measure:
    """Return the measure that shows this figure."""
    return next(one for one in MEASURES if one.scenario is scenario and one.figure == figure)
