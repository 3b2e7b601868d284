"""What the rounds of a benchmark say together."""

import pytest

from write_batcher.bench.duel_figures import Duel
from write_batcher.bench.sample import Sample


def sample(rows_per_s: float, *, cpu_us: float = 100.0) -> dict[str, float]:
    return Sample(
        count=1_000, seconds=1_000 / rows_per_s, cpu_s=cpu_us / 1_000, servers_cpu_s={"redis": 0.01}
    ).readings("row")


def test_floor_with_the_highest_median_counts() -> None:
    quick_once = [sample(90), sample(10), sample(10)]
    steady = [sample(20), sample(21), sample(22)]
    duel = Duel.of([sample(10)] * 3, {"quick once": quick_once, "steady": steady}, compared="rows_per_s")
    assert duel.floor == "steady"
    assert duel.floors["quick once"]["rows_per_s"].max == 90


def test_floor_with_the_lowest_median_counts_where_less_is_better() -> None:
    others = {"quick": [{"p50_ms": 2.0}], "slow": [{"p50_ms": 9.0}]}
    duel = Duel.of([{"p50_ms": 6.0}], others, compared="p50_ms", lower_is_better=True)
    assert (duel.floor, duel.ratio) == ("quick", 3.0)


def test_ratio_is_the_median_of_those_of_the_rounds() -> None:
    theirs = [sample(20), sample(2), sample(40)]
    duel = Duel.of([sample(10), sample(1), sample(30)], {"floor": theirs}, compared="rows_per_s")
    assert duel.ratio == 0.5
    assert duel.ratio_spread.rounds == pytest.approx([0.5, 0.5, 0.75])


def test_figure_that_is_nothing_in_the_floor_has_no_ratio() -> None:
    ours, theirs = {"rows_per_s": 1.0, "redis_cpu_us_per_row": 3.0}, {"rows_per_s": 2.0, "redis_cpu_us_per_row": 0.0}
    assert Duel.of([ours], {"floor": [theirs]}, compared="rows_per_s").ratios == {"rows_per_s": 0.5}


def test_cpu_time_is_told_per_row_in_microseconds() -> None:
    duel = Duel.of([sample(10, cpu_us=300)], {"floor": [sample(10, cpu_us=30)]}, compared="rows_per_s")
    assert round(duel.ours["cpu_us_per_row"].median) == 300
    assert round(duel.ours["redis_cpu_us_per_row"].median) == 10
    assert round(duel.ratios["cpu_us_per_row"]) == 10
