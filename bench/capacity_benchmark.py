"""The measurement of everything that a capacity plan is computed from, on servers of its own."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

from write_batcher.bench.append_benchmark import OURS_ONE, Appends, announce_contract
from write_batcher.bench.append_plan import AppendPlan
from write_batcher.bench.capacity_costs import AppendCosts, CapacityCosts, DrainCosts, TemporalCosts
from write_batcher.bench.capacity_drains import COMPARED, LEDGER_BYTES, CapacityDrains, capacity_drains, drain_costs
from write_batcher.bench.capacity_others import OTHER_CORES, OtherPrograms, quiet_median
from write_batcher.bench.capacity_plan import COST_BATCH_SIZES, CostsPlan
from write_batcher.bench.capacity_temporal import measure_temporal
from write_batcher.bench.confirm_benchmark import measure_confirm
from write_batcher.bench.confirm_plan import ConfirmPlan
from write_batcher.bench.duel_figures import Readings
from write_batcher.bench.filled_queue import WORK_QUEUE
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.record_shapes import PLAIN
from write_batcher.bench.turns import Measure, Measured, take_turns
from write_batcher.models import ConfirmBy
from write_batcher.queue.keys import PartitionKeys

TASKS = 50  # that append at once, on one client
WARM_UP_REQUESTS = 500
MOST_CALLERS = 100  # of each measurement of confirming: it makes ten, and all of their callers wait at once

APPEND_CPU, APPENDS = "redis_cpu_us_per_append", "appends_per_s"
CONFIRM_CPU = "cpu_us_per_confirmation"
APPEND_COMMANDS, ENTRY_BYTES, MARKER_BYTES = "redis_commands", "entry_bytes", "marker_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnRedis:
    """What was measured with one Redis and one PostgreSQL."""

    drain: DrainCosts
    append: AppendCosts
    ledger_bytes: float
    machine: dict[str, str]
    versions: dict[str, str]


async def measure_costs(plan: CostsPlan, measured: Measured) -> CapacityCosts:
    """Measure drains with two batch sizes, appends, confirmations, and workflows in each mode of confirmation.

    Raises what `Server.start` and `arena` raise, and `WrongWork` when some of the work was not what was asked for.
    """
    occasion = Occasion()
    async with capacity_drains() as drains:
        on_redis = await _measure_on_redis(drains, plan, measured)
    versions = dict(on_redis.versions)
    temporal = await measure_temporal(plan.rounds, plan.workflows, measured, versions)
    confirm_cpu_us = await _confirm_cpu_us(plan, measured)
    return CapacityCosts(
        measured_at=occasion.started_at,
        seconds=round(time.monotonic() - occasion.began, 1),
        machine=on_redis.machine,
        versions=versions,
        record_bytes=_record_bytes(plan.requests),
        batch_sizes=COST_BATCH_SIZES,
        drain=on_redis.drain,
        append=on_redis.append,
        ledger_bytes=on_redis.ledger_bytes,
        temporal=_with_confirmations(temporal, confirm_cpu_us),
    )


def measurements(plan: CostsPlan) -> int:
    """Return how many measurements `measure_costs` makes, without warming up."""
    drains_and_appends, temporal = len(COST_BATCH_SIZES) + 1, len(ConfirmBy) + 1
    return plan.rounds * (drains_and_appends + temporal) + _confirm_plan(plan).measurements


async def _measure_on_redis(drains: CapacityDrains, plan: CostsPlan, measured: Measured) -> _OnRedis:
    queue = await drains.filled(1, plan.requests)
    contestants: dict[str, Measure] = {
        f"batches of {size:,}": partial(drains.measure, queue, size) for size in COST_BATCH_SIZES
    }
    by_name = await take_turns(contestants, rounds=plan.rounds, shown=COMPARED, measured=measured)
    found: Mapping[int, Sequence[Readings]] = dict(zip(COST_BATCH_SIZES, by_name.values(), strict=True))
    return _OnRedis(
        drain=drain_costs(found),
        append=await _measure_appends(drains, plan, measured),
        ledger_bytes=quiet_median(found[max(found)], LEDGER_BYTES),
        machine=drains.machine,
        versions=drains.versions,
    )


async def _measure_appends(drains: CapacityDrains, plan: CostsPlan, measured: Measured) -> AppendCosts:
    """Append one by one, as the activity `enqueue_write` does; what is in the stream then is weighed."""
    await announce_contract(drains.redis, max_backlog=max(plan.requests, WARM_UP_REQUESTS))
    await _append(drains, await _appends(drains, plan, WARM_UP_REQUESTS))
    appends = await _appends(drains, plan, plan.requests)
    contestants: dict[str, Measure] = {OURS_ONE: partial(_append, drains, appends)}
    found = (await take_turns(contestants, rounds=plan.rounds, shown=APPENDS, measured=measured))[OURS_ONE]
    return AppendCosts(
        redis_cpu_us=quiet_median(found, APPEND_CPU),
        redis_commands=quiet_median(found, APPEND_COMMANDS),
        entry_bytes=quiet_median(found, ENTRY_BYTES),
        marker_bytes=quiet_median(found, MARKER_BYTES),
    )


async def _appends(drains: CapacityDrains, plan: CostsPlan, requests: int) -> Appends:
    servers = {"redis": drains.servers["redis"]}
    append_plan = AppendPlan(rounds=plan.rounds, requests=requests, tasks=TASKS)
    return await Appends.prepare(drains.redis, servers, requests, append_plan)


async def _append(drains: CapacityDrains, appends: Appends) -> Readings:
    before, count = await drains.commands(), len(appends.requests)
    others = OtherPrograms.begin(drains.servers)
    readings = await appends.contestants()[OURS_ONE]()
    other_cores = others.cores()
    keys = PartitionKeys(WORK_QUEUE, 0)
    return {
        **readings,
        OTHER_CORES: other_cores,
        APPEND_COMMANDS: (await drains.commands() - before) / count,
        ENTRY_BYTES: await drains.memory(keys.stream_key) / count,
        MARKER_BYTES: await drains.memory(keys.live_key) / count,
    }


async def _confirm_cpu_us(plan: CostsPlan, measured: Measured) -> dict[ConfirmBy, float]:
    """CPU time of the batcher's process for one confirmation, on a real Temporal."""
    results = await measure_confirm(_confirm_plan(plan), measured)
    by_mode = {ConfirmBy(mode): duel.ours[CONFIRM_CPU].median for mode, duel in results.groups.items()}
    return by_mode | {ConfirmBy.NONE: 0.0}


def _confirm_plan(plan: CostsPlan) -> ConfirmPlan:
    return ConfirmPlan(rounds=1, callers=min(plan.workflows, MOST_CALLERS), batch_size=min(COST_BATCH_SIZES))


def _with_confirmations(
    used: Mapping[ConfirmBy, Readings], confirm_cpu_us: Mapping[ConfirmBy, float]
) -> dict[ConfirmBy, TemporalCosts]:
    return {mode: TemporalCosts(**use, confirm_cpu_us=confirm_cpu_us[mode]) for mode, use in used.items()}


def _record_bytes(requests: int) -> int:
    """Mean size of the records that were measured, as JSON."""
    return round(mean(len(json.dumps(PLAIN.record(number), separators=(",", ":"))) for number in range(requests)))
