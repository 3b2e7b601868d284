"""The arithmetic of capacity: what a demand needs, what is full first, and how fast one process can drain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from write_batcher.bench.capacity_costs import CapacityCosts, DrainCosts
from write_batcher.bench.capacity_plan import CapacityDemand
from write_batcher.bench.json_result import JsonResult
from write_batcher.config import Settings
from write_batcher.models import HEARTBEAT_TIMEOUT, MAX_REQUEST_AGE
from write_batcher.sinks.sql.ledger_row import EXPIRY_MARGIN

FILE_NAME = "capacity.json"
MICROSECONDS, MILLISECONDS = 1_000_000, 1_000  # in a second
MONTH = timedelta(days=30)
MOST_PARTITIONS = 1_000  # of one queue: the limit of the setting `partitions`

BATCHES_IN_FLIGHT = 3
"""Of one partition: one is read and decoded, one is written, and one is acknowledged."""

BUSY = 0.7
"""How much of a core is planned with: the rest is for peaks, for catching up, and for other machines than ours."""

HEARTBEAT_SHARE = 0.8
"""Of the heartbeat timeout: the SDK sends one to the server after that, and each is a billable action."""


class Part(StrEnum):
    """What can be full."""

    TEMPORAL = "Temporal server, CPU"
    PARTITIONS = "partitions of one queue"
    REDIS = "Redis, one core"
    REDIS_MEMORY = "Redis, memory"
    DATABASE = "database, CPU"
    LEDGER = "write ledger, disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Up to where one server, or one queue, carries a part."""

    part: Part
    writes_per_s: float
    """That one carries, with `BUSY` of its cores."""
    needed: float
    """How many of them the demand needs; 0.5 is half of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    """What a demand needs."""

    demand: CapacityDemand
    limits: tuple[Limit, ...]
    """What carries fewest writes first."""
    items: float
    """Requests in a batch, on average."""
    batches_per_s: float
    partitions: int
    """As many worker processes: each drains one."""
    batcher_cores: float
    caller_cores: float
    """Of the workers that run the calling workflows, for their writes alone."""
    redis_cores: float
    redis_commands_per_s: float
    backlog_entries: float
    """Waiting after `max_wait` and the outage."""
    backlog_bytes: float
    entries_in_stream: float
    """Of `backlog_entries`, in one partition: `max_backlog` must not be less."""
    rows_per_s: float
    """Records and ledger rows."""
    database_cores: float
    wal_bytes_per_s: float
    ledger_bytes: float
    ledger_kept_s: float
    """For how long a row of the ledger is kept."""
    temporal_cores: float
    actions_per_s: float
    events_per_s: float
    actions_per_month: float
    """In 30 days."""
    usd_per_month: float

    @property
    def first(self) -> Limit:
        """What is full first as the load grows."""
        return self.limits[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlans(JsonResult):
    """Plans for several loads, and what they were computed from."""

    plans: tuple[CapacityPlan, ...]
    costs: CapacityCosts

    @property
    def file_name(self) -> str:
        return FILE_NAME


def plan_capacity(demand: CapacityDemand, costs: CapacityCosts) -> CapacityPlan:
    """Compute what `demand` needs. Needs are proportional to the load once batches are full."""
    temporal = costs.temporal[demand.confirm_by]
    partitions = _partitions(demand, costs)
    items = _items(demand, partitions)
    writes, batches = demand.writes_per_s, demand.writes_per_s / items
    waiting = writes * (demand.max_wait_s + demand.outage_s)
    kept_s = demand.deduplication_window_s + (MAX_REQUEST_AGE + EXPIRY_MARGIN).total_seconds()
    actions = writes * temporal.actions + partitions * heartbeats_per_s()
    actions_per_month = actions * MONTH.total_seconds()
    needs = _Needs(demand=demand, costs=costs, items=items, kept_s=kept_s)
    return CapacityPlan(
        demand=demand,
        limits=needs.limits(),
        items=items,
        batches_per_s=batches,
        partitions=partitions,
        batcher_cores=writes * needs.batcher_cpu_s,
        caller_cores=writes * temporal.caller_cpu_ms / MILLISECONDS,
        redis_cores=writes * needs.redis_cpu_s,
        redis_commands_per_s=writes * (costs.append.redis_commands + costs.drain.redis_commands.at(items)),
        backlog_entries=waiting,
        backlog_bytes=waiting * needs.waiting_bytes,
        entries_in_stream=waiting / partitions,
        rows_per_s=2 * writes,
        database_cores=writes * needs.database_cpu_s,
        wal_bytes_per_s=writes * max(costs.drain.wal_bytes.at(items) + needs.larger_by, 0.0),
        ledger_bytes=writes * kept_s * costs.ledger_bytes,
        ledger_kept_s=kept_s,
        temporal_cores=writes * needs.temporal_cpu_s,
        actions_per_s=actions,
        events_per_s=writes * temporal.events,
        actions_per_month=actions_per_month,
        usd_per_month=actions_per_month / 1e6 * demand.usd_per_million_actions,
    )


def heartbeats_per_s() -> float:
    """Return how many heartbeats of one partition reach Temporal each second."""
    return 1 / (HEARTBEAT_TIMEOUT.total_seconds() * HEARTBEAT_SHARE)


def default_backlog() -> int:
    """Return the entries that one stream takes with default settings."""
    return Settings.model_construct().max_backlog


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needs:
    """What one write needs of each part, in seconds of CPU time or in bytes."""

    demand: CapacityDemand
    costs: CapacityCosts
    items: float
    kept_s: float

    @property
    def batcher_cpu_s(self) -> float:
        return _batcher_cpu_s(self.demand, self.costs, self.items)

    @property
    def redis_cpu_s(self) -> float:
        return (self.costs.append.redis_cpu_us + self.costs.drain.redis_cpu_us.at(self.items)) / MICROSECONDS

    @property
    def database_cpu_s(self) -> float:
        return self.costs.drain.database_cpu_us.at(self.items) / MICROSECONDS

    @property
    def temporal_cpu_s(self) -> float:
        return self.costs.temporal[self.demand.confirm_by].server_cpu_ms / MILLISECONDS

    @property
    def larger_by(self) -> float:
        """Bytes that a record has more than a measured one; negative when it has fewer."""
        return self.demand.record_bytes - self.costs.record_bytes

    @property
    def waiting_bytes(self) -> float:
        append = self.costs.append
        return max(append.entry_bytes + self.larger_by, 0.0) + append.marker_bytes

    def limits(self) -> tuple[Limit, ...]:
        demand = self.demand
        waiting_s = demand.max_wait_s + demand.outage_s
        carried = {
            Part.TEMPORAL: _quotient(BUSY * demand.cores, self.temporal_cpu_s),
            Part.PARTITIONS: _quotient(BUSY * MOST_PARTITIONS, self.batcher_cpu_s),
            Part.REDIS: _quotient(BUSY, self.redis_cpu_s),
            Part.REDIS_MEMORY: _quotient(demand.memory_bytes, waiting_s * self.waiting_bytes),
            Part.DATABASE: _quotient(BUSY * demand.cores, self.database_cpu_s),
            Part.LEDGER: _quotient(demand.disk_bytes, self.kept_s * self.costs.ledger_bytes),
        }
        return tuple(
            Limit(part=part, writes_per_s=most, needed=demand.writes_per_s / most)
            for part, most in sorted(carried.items(), key=lambda one: one[1])
            if math.isfinite(most)
        )


def _quotient(capacity: float, need: float) -> float:
    return capacity / need if need else math.inf


def _partitions(demand: CapacityDemand, costs: CapacityCosts) -> int:
    """The fewest partitions, each with a core of its own, that carry the load: the more there are, the longer a batch
    takes to fill, and batches that `max_wait` closes cost more per row.
    """
    partitions = 1
    while (needed := _needed(demand, costs, partitions)) > partitions:
        partitions = min(needed, 2 * partitions)
    while partitions > 1 and _needed(demand, costs, partitions - 1) <= partitions - 1:
        partitions -= 1
    return partitions


def _needed(demand: CapacityDemand, costs: CapacityCosts, partitions: int) -> int:
    cpu_s = _batcher_cpu_s(demand, costs, _items(demand, partitions))
    return math.ceil(demand.writes_per_s * cpu_s / BUSY)


def _batcher_cpu_s(demand: CapacityDemand, costs: CapacityCosts, items: float) -> float:
    confirm_us = costs.temporal[demand.confirm_by].confirm_cpu_us
    return (costs.drain.batcher_cpu_us.at(items) + confirm_us) / MICROSECONDS


def _items(demand: CapacityDemand, partitions: int) -> float:
    in_time = demand.writes_per_s / partitions * demand.max_wait_s
    return max(1.0, min(float(demand.batch_size), in_time))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPrediction:
    """How fast one process drains, and what bounds it."""

    rows_per_s: float
    bound_by: str
    """What is busiest."""


def predict_drain(costs: DrainCosts, *, items: float, partitions: int, cores: int) -> DrainPrediction:
    """Predict how fast one process drains `partitions` side by side, all servers on the same `cores`.

    The process and Redis have one core each, the database one per partition, and all of them together those of the
    machine. They work at the same time, on different batches, so the busiest bounds; the fewer batches are in flight,
    the more they also wait for each other. The process also waits for a core while the others have all of them.
    """
    batcher, waits, redis, database = (
        cost.at(items)
        for cost in (costs.batcher_cpu_us, costs.batcher_wait_us, costs.redis_cpu_us, costs.database_cpu_us)
    )
    us_per_row = {"batcher process": batcher + waits, "Redis": redis, "database": database / min(partitions, cores)}
    busiest = max(us_per_row, key=lambda name: us_per_row[name])
    in_stages = closed_throughput(list(us_per_row.values()), jobs=partitions * BATCHES_IN_FLIGHT)
    on_machine = cores / (batcher + redis + database)
    if on_machine < in_stages:
        return DrainPrediction(rows_per_s=on_machine * MICROSECONDS, bound_by="cores of the machine")
    return DrainPrediction(rows_per_s=in_stages * MICROSECONDS, bound_by=busiest)


def closed_throughput(demands: Sequence[float], *, jobs: int) -> float:
    """Return how many jobs are done per unit of time when `jobs` go round and round between stations, each of which
    serves one at a time and needs its part of `demands` for each: mean value analysis, as textbooks have it.

    With one job nothing overlaps, 1 / sum(demands); with many the busiest station bounds, 1 / max(demands).
    """
    waiting = [0.0] * len(demands)
    throughput = 0.0
    for number in range(1, jobs + 1):
        times = [demand * (1 + before) for demand, before in zip(demands, waiting, strict=True)]
        throughput = number / sum(times)
        waiting = [throughput * time for time in times]
    return throughput
