"""How a capacity plan is shown, and predictions beside their measurements."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from write_batcher.bench.bench_results import surroundings
from write_batcher.bench.capacity_costs import BatchCost, CapacityCosts
from write_batcher.bench.capacity_model import (
    BUSY,
    MOST_PARTITIONS,
    CapacityPlan,
    CapacityPlans,
    Limit,
    Part,
    default_backlog,
)
from write_batcher.bench.capacity_plan import MOST_DEVIATION_PERCENT, CapacityDemand
from write_batcher.cli.bench_view import aligned, number

if TYPE_CHECKING:  # it needs the packages of extras, and a plan does not
    from write_batcher.bench.capacity_check import CapacityCheck, Checked

SCALES = ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"))
BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
TIMES = ((86_400, "days"), (3_600, "h"), (60, "min"))
ONE = {
    Part.TEMPORAL: "server with {cores} cores",
    Part.PARTITIONS: f"queue with {MOST_PARTITIONS:,} partitions",
    Part.REDIS: "Redis server",
    Part.REDIS_MEMORY: "Redis server with {memory}",
    Part.DATABASE: "database server with {cores} cores",
    Part.LEDGER: "database server with {disk}",
}
CURES = {
    Part.TEMPORAL: "a larger Temporal, or several; many writes submitted at once, which share actions",
    Part.PARTITIONS: "several queues",
    Part.REDIS: "Redis Cluster: partitions spread over its servers",
    Part.REDIS_MEMORY: "more memory, or Redis Cluster; a shorter outage",
    Part.DATABASE: "larger batches; several queues, each with a database of its own",
    Part.LEDGER: "a shorter deduplication window; several queues, each with a database of its own",
}

# The rows of the table.
NEEDS: dict[str, Callable[[CapacityPlan], str]] = {
    "batches": lambda plan: f"{_amount(plan.batches_per_s)}/s of {number(plan.items)}",
    "partitions = worker processes": lambda plan: _partitions(plan),
    "CPU of the batchers": lambda plan: _cores(plan.batcher_cores),
    "CPU of the callers' workers": lambda plan: _cores(plan.caller_cores),
    "Redis: CPU": lambda plan: _cores(plan.redis_cores),
    "Redis: commands": lambda plan: f"{_amount(plan.redis_commands_per_s)}/s",
    "Redis: requests that wait": lambda plan: _amount(plan.backlog_entries),
    "Redis: memory for them": lambda plan: _bytes(plan.backlog_bytes),
    "of one stream: --max-backlog": lambda plan: _amount(math.ceil(plan.entries_in_stream)),
    "with the default it is full after": lambda plan: _time(_full_after_s(plan)),
    "database: transactions": lambda plan: f"{_amount(plan.batches_per_s)}/s",
    "database: rows, ledger included": lambda plan: f"{_amount(plan.rows_per_s)}/s",
    "database: CPU": lambda plan: _cores(plan.database_cores),
    "database: write-ahead log": lambda plan: f"{_bytes(plan.wal_bytes_per_s)}/s",
    "write ledger on disk": lambda plan: _bytes(plan.ledger_bytes),
    "Temporal: CPU": lambda plan: _cores(plan.temporal_cores),
    "Temporal: events": lambda plan: f"{_amount(plan.events_per_s)}/s",
    "Temporal: actions": lambda plan: f"{_amount(plan.actions_per_s)}/s",
    "Temporal: actions in 30 days": lambda plan: _amount(plan.actions_per_month),
    "Temporal Cloud: price of 30 days": lambda plan: f"${_amount(plan.usd_per_month)}",
}


def plans_as_text(found: CapacityPlans) -> str:
    """Return what is full first, what is needed, what one server carries, and what all that was computed from."""
    plans = found.plans
    return "\n".join(
        [
            *(_verdict(plan) for plan in plans),
            "",
            *aligned(
                [("needed for", *(f"{_amount(plan.demand.writes_per_s)} writes/s" for plan in plans)), *_rows(plans)]
            ),
            "",
            *aligned([("one carries at most", "writes/s", "beyond that"), *map(_limit_row, _limits(plans[-1]))]),
            "",
            *_assumptions(plans[0], found.costs),
            surroundings(found.costs.machine, found.costs.versions),
        ]
    )


def check_as_text(check: "CapacityCheck") -> str:
    """Return predictions beside their measurements, and on what they were made."""
    headings = ("partitions", "batch", "predicted rows/s", "bound by", "measured rows/s", "deviation", "other programs")
    return "\n".join(
        [
            *aligned([headings, *map(_checked_row, check.checked)]),
            _rounds(check),
            _predicted(check),
            surroundings(check.machine, check.versions),
        ]
    )


def _verdict(plan: CapacityPlan) -> str:
    first, load = plan.first, _amount(plan.demand.writes_per_s)
    carries = f"one {_one(first.part, plan.demand)} carries {_amount(first.writes_per_s)} writes/s"
    if first.needed <= 1:
        return f"{load} writes/s: no limit is reached. The first will be: {first.part} ({carries})."
    others = "; ".join(f"{limit.part} ({math.ceil(limit.needed):,})" for limit in plan.limits[1:] if limit.needed > 1)
    return (
        f"{load} writes/s: the first limit is: {first.part} ({carries}, so it takes {math.ceil(first.needed):,})."
        + (f" Beyond one, too: {others}." if others else "")
    )


def _rows(plans: Sequence[CapacityPlan]) -> list[Sequence[str]]:
    return [(label, *map(show, plans)) for label, show in NEEDS.items()]


def _limits(plan: CapacityPlan) -> list[tuple[Limit, CapacityDemand]]:
    return [(limit, plan.demand) for limit in plan.limits]


def _limit_row(of: tuple[Limit, CapacityDemand]) -> Sequence[str]:
    limit, demand = of
    return f"{limit.part}: one {_one(limit.part, demand)}", _amount(limit.writes_per_s), CURES[limit.part]


def _assumptions(plan: CapacityPlan, costs: CapacityCosts) -> list[str]:
    return [_demand(plan), _kept(plan), _price(plan), _of_temporal(plan, costs), _cpu(plan, costs), *_measured(costs)]


def _demand(plan: CapacityPlan) -> str:
    demand = plan.demand
    return (
        f"Assumed: records of {demand.record_bytes:,} bytes, confirmation by {demand.confirm_by}, batches of at most "
        f"{demand.batch_size:,} requests or {_time(demand.max_wait_s)}, cores at most {BUSY:.0%} busy."
    )


def _kept(plan: CapacityPlan) -> str:
    return (
        f"Redis must hold all writes of {_time(plan.demand.max_wait_s)} and of an outage of "
        f"{_time(plan.demand.outage_s)}. The ledger keeps a row for {_time(plan.ledger_kept_s)}: the deduplication "
        "window, the longest age of a request, and a day."
    )


def _price(plan: CapacityPlan) -> str:
    return (
        f"Price: ${plan.demand.usd_per_million_actions:g} per million actions, without storage and support plan. Each "
        "partition heartbeats every 8 s, which is an action."
    )


def _of_temporal(plan: CapacityPlan, costs: CapacityCosts) -> str:
    temporal = costs.temporal[plan.demand.confirm_by]
    return (
        f"A workflow makes one write: {number(temporal.actions)} actions, {number(temporal.events)} events, "
        f"{number(temporal.server_cpu_ms)} ms CPU of a Temporal that keeps its data in memory, and "
        f"{number(temporal.caller_cpu_ms)} ms of the workflow's worker. The workflow itself is not counted."
    )


def _cpu(plan: CapacityPlan, costs: CapacityCosts) -> str:
    drain = costs.drain
    return (
        f"CPU per write and per batch: batcher {_line(drain.batcher_cpu_us)}, and "
        f"{number(costs.temporal[plan.demand.confirm_by].confirm_cpu_us)} µs to confirm; Redis "
        f"{_line(drain.redis_cpu_us)}, and {number(costs.append.redis_cpu_us)} µs to append; PostgreSQL "
        f"{_line(drain.database_cpu_us)}."
    )


def _measured(costs: CapacityCosts) -> tuple[str, str]:
    append, wal = costs.append, costs.drain.wal_bytes
    sizes = " and ".join(f"{size:,}" for size in costs.batch_sizes)
    of_bytes = (
        f"Bytes per write: {number(append.entry_bytes + append.marker_bytes)} in Redis while it waits, "
        f"{number(wal.at(costs.batch_sizes[0]))} of write-ahead log, {number(costs.ledger_bytes)} in the ledger, with "
        f"records of {costs.record_bytes:,} bytes. For larger records the first two grow by what they have more."
    )
    return of_bytes, f"Costs measured on {costs.measured_at[:10]}, in batches of {sizes}, everything on one machine:"


def _checked_row(one: "Checked") -> Sequence[str]:
    return (
        str(one.partitions),
        f"{one.batch_size:,}",
        number(one.predicted_rows_per_s),
        one.bound_by,
        f"{number(one.measured_rows_per_s)} ({number(one.rounds.min)}-{number(one.rounds.max)})",
        f"{one.deviation_percent:+.0f} %",
        f"{one.other_cores:.2f} cores",
    )


def _rounds(check: "CapacityCheck") -> str:
    return (
        f"measured: median of the quiet ones of {check.rounds} rounds (lowest-highest of all), {check.requests:,} "
        "requests each, all partitions in one process; deviation of the prediction from it, at most "
        f"{MOST_DEVIATION_PERCENT:g} %"
    )


def _predicted(check: "CapacityCheck") -> str:
    costs = check.costs
    return (
        f"predicted from the CPU time of one partition, per row and per batch: batcher {_line(costs.batcher_cpu_us)}, "
        f"and {_line(costs.batcher_wait_us)} of waiting for a core, "
        f"Redis {_line(costs.redis_cpu_us)}, PostgreSQL {_line(costs.database_cpu_us)}; and {check.cores} cores"
    )


def _partitions(plan: CapacityPlan) -> str:
    queues = math.ceil(plan.partitions / MOST_PARTITIONS)
    return _amount(plan.partitions) + (f" in {queues} queues" if queues > 1 else "")


def _full_after_s(plan: CapacityPlan) -> float:
    return default_backlog() * plan.partitions / plan.demand.writes_per_s


def _one(part: Part, demand: CapacityDemand) -> str:
    sizes = {"memory": _bytes(demand.memory_bytes), "disk": _bytes(demand.disk_bytes)}
    return ONE[part].format(cores=demand.cores, **sizes)


def _line(cost: BatchCost) -> str:
    return f"{number(cost.per_row)} + {number(cost.per_batch)} µs"


def _cores(cores: float) -> str:
    return f"{number(cores)} cores"


def _amount(value: float) -> str:
    scale, name = next(((scale, name) for scale, name in SCALES if value >= scale), (1, ""))
    return number(value / scale) + name


def _bytes(value: float) -> str:
    scale, name = next(((scale, name) for scale, name in BYTES if value >= scale), (1, "bytes"))
    return f"{number(value / scale)} {name}"


def _time(seconds: float) -> str:
    scale, name = next(((scale, name) for scale, name in TIMES if seconds >= scale), (1, "s"))
    return f"{number(seconds / scale)} {name}"
