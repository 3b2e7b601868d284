"""The arithmetic of capacity: what a load needs, what is full first, and how fast one process drains."""

import math
import sys
from dataclasses import replace

import pytest

from write_batcher.bench.capacity_costs import AppendCosts, BatchCost, CapacityCosts, DrainCosts, TemporalCosts
from write_batcher.bench.capacity_model import (
    BUSY,
    CapacityPlan,
    Part,
    closed_throughput,
    heartbeats_per_s,
    plan_capacity,
    predict_drain,
)
from write_batcher.bench.capacity_others import core_wait_s, quiet_median
from write_batcher.bench.capacity_plan import CapacityDemand
from write_batcher.models import ConfirmBy

DAY = 86_400.0
MILLION = 1_000_000
DRAIN = DrainCosts(
    batcher_cpu_us=BatchCost(per_row=100.0, per_batch=5_000.0),
    batcher_wait_us=BatchCost(per_row=0.0, per_batch=0.0),
    redis_cpu_us=BatchCost(per_row=40.0, per_batch=1_000.0),
    database_cpu_us=BatchCost(per_row=10.0, per_batch=1_000.0),
    redis_commands=BatchCost(per_row=4.0, per_batch=12.0),
    wal_bytes=BatchCost(per_row=700.0, per_batch=1_000.0),
)
TEMPORAL = TemporalCosts(server_cpu_ms=5.0, caller_cpu_ms=4.0, confirm_cpu_us=350.0, actions=3.0, events=11.0)
COSTS = CapacityCosts(
    measured_at="2026-01-01T00:00:00+00:00",
    seconds=60.0,
    machine={},
    versions={},
    record_bytes=200,
    batch_sizes=(100, 1_000),
    drain=DRAIN,
    append=AppendCosts(redis_cpu_us=50.0, redis_commands=7.0, entry_bytes=450.0, marker_bytes=100.0),
    ledger_bytes=250.0,
    temporal={
        ConfirmBy.SIGNAL: TEMPORAL,
        ConfirmBy.COMPLETION: replace(TEMPORAL, actions=1.0, server_cpu_ms=3.0),
        ConfirmBy.NONE: replace(TEMPORAL, actions=1.0, server_cpu_ms=3.0, confirm_cpu_us=0.0),
    },
)
DEMAND = CapacityDemand(
    writes_per_s=10_000,
    record_bytes=200,
    confirm_by=ConfirmBy.SIGNAL,
    batch_size=100,
    max_wait_s=20.0,
    outage_s=600.0,
    deduplication_window_s=7 * DAY,
    cores=16,
    memory_bytes=64 * 10**9,
    disk_bytes=16 * 10**12,
    usd_per_million_actions=50.0,
)


def plan(writes_per_s: int = 10_000, **changed: object) -> CapacityPlan:
    return plan_capacity(replace(DEMAND, writes_per_s=writes_per_s, **changed), COSTS)  # type: ignore[arg-type]


def test_full_batches_need_what_their_rows_and_batches_cost() -> None:
    found = plan(10_000)
    assert (found.items, found.batches_per_s) == (100.0, 100.0)
    assert found.batcher_cores == pytest.approx(10_000 * (100 + 50 + 350) / MILLION)
    assert found.partitions == math.ceil(found.batcher_cores / BUSY)
    assert found.redis_cores == pytest.approx(10_000 * (50 + 40 + 10) / MILLION)
    assert found.database_cores == pytest.approx(10_000 * (10 + 10) / MILLION)
    assert found.temporal_cores == pytest.approx(50.0)
    assert found.rows_per_s == 20_000


def test_batch_that_max_wait_closes_has_what_came_in_time() -> None:
    found = plan(2, max_wait_s=5.0)
    assert (found.items, found.partitions) == (10.0, 1)
    assert plan(1, max_wait_s=0.05).items == 1.0


def test_redis_holds_the_writes_of_max_wait_and_outage() -> None:
    found = plan(1_000, record_bytes=500)
    assert found.backlog_entries == 620_000
    assert found.backlog_bytes == 620_000 * (450 + 300 + 100)
    assert found.entries_in_stream == 620_000 / found.partitions


def test_ledger_keeps_rows_for_window_longest_age_and_a_day() -> None:
    found = plan(1_000, deduplication_window_s=DAY)
    assert found.ledger_kept_s == (1 + 7 + 1) * DAY
    assert found.ledger_bytes == 1_000 * 9 * DAY * 250


def test_actions_are_those_of_writes_and_heartbeats_and_have_a_price() -> None:
    found = plan(1_000, usd_per_million_actions=10.0)
    assert heartbeats_per_s() == 1 / 4
    assert found.actions_per_s == 3_000 + found.partitions / 4
    assert found.usd_per_month == pytest.approx(found.actions_per_s * 30 * DAY * 10 / MILLION)


def test_first_limit_is_what_carries_fewest_writes() -> None:
    first = plan(10_000).first
    assert (first.part, round(first.writes_per_s)) == (Part.TEMPORAL, round(16 * BUSY * 1_000 / 5))
    assert first.needed == pytest.approx(10_000 / first.writes_per_s)
    assert plan(10_000, cores=1_000).first.part is Part.REDIS
    assert plan(10_000, cores=1_000, disk_bytes=10**9).first.part is Part.LEDGER
    assert plan(10_000, cores=1_000, memory_bytes=10**9).first.part is Part.REDIS_MEMORY


def test_limits_come_in_the_order_in_which_they_are_reached() -> None:
    carried = [limit.writes_per_s for limit in plan().limits]
    assert carried == sorted(carried)
    assert {limit.part for limit in plan().limits} == set(Part)


@pytest.mark.parametrize("mode", ConfirmBy)
def test_more_writes_never_need_less(mode: ConfirmBy) -> None:
    loads = [1, 2, 5, 9, 50, 400, 999, 1_000, 30_000, 700_000, MILLION, 10 * MILLION]
    plans = [plan(load, confirm_by=mode, max_wait_s=1.0) for load in loads]
    for figure in ("partitions", "batcher_cores", "batches_per_s", "redis_cores", "database_cores", "actions_per_s"):
        needs = [getattr(one, figure) for one in plans]
        assert needs == sorted(needs), figure


def test_partitions_are_enough_and_one_less_is_not() -> None:
    for load in (1, 700, 1_400, 1_401, 5_000, 12_345, 999_999):
        found = plan(load)
        assert found.batcher_cores <= found.partitions * BUSY + 1e-9
        assert found.partitions == max(1, math.ceil(found.batcher_cores / BUSY))


def test_million_writes_a_second_are_planned() -> None:
    found = plan(MILLION)
    assert found.partitions == math.ceil(MILLION * 500e-6 / BUSY)
    assert {limit.part for limit in found.limits if limit.needed > 1} >= {Part.TEMPORAL, Part.REDIS, Part.LEDGER}


def test_confirmation_by_completion_costs_fewer_actions_than_by_signal() -> None:
    signal, completion = plan(), plan(confirm_by=ConfirmBy.COMPLETION)
    assert completion.usd_per_month < signal.usd_per_month / 2
    assert completion.first.writes_per_s > signal.first.writes_per_s


def test_line_goes_through_both_measurements() -> None:
    line = BatchCost.through((100, 150.0), (1_000, 105.0))
    assert (line.at(100), line.at(1_000)) == pytest.approx((150.0, 105.0))
    assert (line.per_row, line.per_batch) == pytest.approx((100.0, 5_000.0))


def test_batches_cost_nothing_where_larger_ones_are_not_cheaper() -> None:
    assert BatchCost.through((100, 90.0), (1_000, 110.0)) == BatchCost(per_row=100.0, per_batch=0.0)


def test_one_job_overlaps_with_nothing_and_many_are_bound_by_the_busiest() -> None:
    assert closed_throughput([2.0, 1.0, 1.0], jobs=1) == pytest.approx(1 / 4)
    assert closed_throughput([2.0, 2.0], jobs=3) == pytest.approx(3 / 8)  # balanced: N / (N + stations - 1) / demand
    assert closed_throughput([2.0, 1.0, 1.0], jobs=200) == pytest.approx(1 / 2)


def test_drain_is_bound_by_its_process_while_there_are_cores() -> None:
    many = predict_drain(DRAIN, items=100, partitions=8, cores=4)
    alone = predict_drain(DRAIN, items=100, partitions=1, cores=4)
    assert (many.bound_by, round(many.rows_per_s / 1_000, 1)) == ("batcher process", 6.7)
    assert alone.rows_per_s < many.rows_per_s
    assert predict_drain(DRAIN, items=1_000, partitions=8, cores=4).rows_per_s > many.rows_per_s


def test_process_that_waits_for_a_core_drains_more_slowly() -> None:
    waiting = replace(DRAIN, batcher_wait_us=BatchCost(per_row=15.0, per_batch=0.0))
    found = predict_drain(waiting, items=100, partitions=200, cores=4)
    assert found.rows_per_s == pytest.approx(MILLION / (150 + 15), rel=0.01)


def test_drain_is_bound_by_the_machine_that_has_too_few_cores() -> None:
    found = predict_drain(DRAIN, items=100, partitions=8, cores=1)
    assert found.bound_by == "cores of the machine"
    assert found.rows_per_s == pytest.approx(MILLION / (150 + 50 + 20))


def test_drain_is_bound_by_redis_where_that_is_busiest() -> None:
    costs = replace(DRAIN, redis_cpu_us=BatchCost(per_row=400.0, per_batch=0.0))
    assert predict_drain(costs, items=100, partitions=4, cores=4).bound_by == "Redis"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_waiting_for_a_core_is_counted() -> None:
    assert 0 < core_wait_s() <= core_wait_s()


def test_quiet_rounds_count_whatever_was_measured_in_them() -> None:
    rounds = [
        {"rows": rows, "other_cores": cores} for rows, cores in ((9.0, 0.5), (1.0, 0.05), (3.0, 0.14), (8.0, 0.2))
    ]
    assert quiet_median(rounds, "rows") == 2.0
