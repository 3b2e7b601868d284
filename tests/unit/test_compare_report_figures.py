"""Medians, spreads and sums over rounds, and which contender is best."""

import math
from typing import Any

import pytest

from tests.support.sample_results import results_of, run, sample_results
from write_batcher.compare.quantiles import quantile
from write_batcher.compare.report.charts.chart_section import rates_of
from write_batcher.compare.report.figures import Figures
from write_batcher.compare.report.measures import MEASURES, measure
from write_batcher.compare.results import Contender, Results, Run, Scenario

DIRECT, SIGNAL, QUEUE, COMPLETION = (
    Contender.DIRECT,
    Contender.SIGNAL,
    Contender.QUEUE,
    Contender.QUEUE_COMPLETION,
)
LOAD = Scenario.LOAD
ACTIONS = measure(LOAD, "actions_per_write")
FAILED = measure(LOAD, "failed")


def test_spread_is_the_median_between_lowest_and_highest() -> None:
    rounds = [run(LOAD, QUEUE, round=number, actions_per_write=value) for number, value in enumerate([5, 1, 3])]
    spread = Figures(results_of(*rounds)).spread(ACTIONS, QUEUE)
    assert spread is not None
    assert (spread.low, spread.middle, spread.high) == (1, 3, 5)


def test_harm_is_summed_because_a_median_would_hide_it() -> None:
    rounds = [run(LOAD, QUEUE, round=number, failed=value) for number, value in enumerate([0, 7, 0])]
    spread = Figures(results_of(*rounds)).spread(FAILED, QUEUE)
    assert spread is not None
    assert spread.middle == 7


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "3", True])
def test_figure_that_is_not_a_finite_number_counts_as_not_measured(value: object) -> None:
    figures = Figures(results_of(run(LOAD, QUEUE, actions_per_write=value)))
    assert figures.spread(ACTIONS, QUEUE) is None
    assert figures.total(LOAD, "actions_per_write", QUEUE) is None


def test_latency_quantiles_are_measured_values() -> None:
    figures = Figures(results_of(run(LOAD, QUEUE, rows=4, samples={"latency_ms": [40, 10, 30, 20]})))
    p50, p99 = (figures.spread(measure(LOAD, name), QUEUE) for name in ("latency_p50", "latency_p99"))
    assert p50 is not None
    assert p99 is not None
    assert (p50.middle, p99.middle) == (20, 40)
    assert quantile([1.0], 0.0) == 1.0


def test_transactions_are_divided_by_written_rows() -> None:
    figures = Figures(results_of(run(LOAD, QUEUE, transactions=3, rows=250), run(LOAD, SIGNAL, transactions=3, rows=0)))
    row = measure(LOAD, "transactions_per_100")
    assert [round(spread.middle, 2) for spread in figures.spreads(row).values()] == [1.2]


def test_best_has_the_least_or_the_most() -> None:
    figures = Figures(
        results_of(
            run(LOAD, SIGNAL, actions_per_write=3.0, writes_per_s=90),
            run(LOAD, COMPLETION, actions_per_write=1.1, writes_per_s=50),
        )
    )
    assert figures.best(ACTIONS) == [COMPLETION]
    assert figures.best(measure(LOAD, "writes_per_s")) == [SIGNAL]


def test_best_are_all_whose_difference_may_be_chance() -> None:
    runs = [
        run(LOAD, contender, round=number, actions_per_write=value)
        for contender, values in {DIRECT: (1.0, 1.4), COMPLETION: (1.3, 1.6), SIGNAL: (3.0, 3.1)}.items()
        for number, value in enumerate(values)
    ]
    assert Figures(results_of(*runs)).best(ACTIONS) == [DIRECT, COMPLETION]


def test_best_is_nobody_where_all_are_equal_or_neither_is_better() -> None:
    figures = Figures(results_of(*(run(LOAD, one, actions_per_write=1.0, failed=0) for one in Contender)))
    assert figures.best(ACTIONS) == []
    assert figures.best(FAILED) == []
    assert figures.best(measure(Scenario.CEILING, "offered")) == []


def test_contender_that_failed_a_workflow_is_not_best() -> None:
    figures = Figures(
        results_of(
            run(LOAD, DIRECT, actions_per_write=1.0, failed=9), run(LOAD, QUEUE, actions_per_write=3.0, failed=0)
        )
    )
    assert figures.best(ACTIONS) == [QUEUE]
    assert figures.best(FAILED) == [QUEUE]


def test_contender_that_broke_a_promise_of_this_library_is_best_nowhere() -> None:
    figures = Figures(
        results_of(
            run(LOAD, QUEUE, actions_per_write=1.0),
            run(LOAD, SIGNAL, actions_per_write=3.0),
            run(Scenario.CRASH, QUEUE, lost=1),
        )
    )
    assert figures.best(ACTIONS) == [SIGNAL]


def test_databases_are_kept_apart() -> None:
    figures = Figures(sample_results())
    assert figures.databases(LOAD) == ["sqlite", "postgresql"]
    assert figures.total(LOAD, "failed", DIRECT, "sqlite") == 0
    assert figures.total(LOAD, "failed", DIRECT, "postgresql")


def test_every_figure_that_a_measure_names_is_in_the_sample() -> None:
    figures = Figures(sample_results())
    assert [row for row in MEASURES if not figures.spreads(row)] == []


def crash(*rows: int, **figures: Any) -> Run:
    points = [{"s": 2.0 * number, "rows": count} for number, count in enumerate(rows)]
    known: dict[str, Any] = {
        "workflows": 9,
        "rows": rows[-1],
        "duplicates": 0,
        "killed_at_s": 3.0,
        "restarted_at_s": 5.0,
    }
    return run(Scenario.CRASH, DIRECT, recovery_s=0.5, samples={"points": points}, **known | figures)


def test_catching_up_takes_until_the_last_row() -> None:
    figures = Figures(results_of(crash(0, 3, 3, 5, 5, 9)))
    spread = figures.spread(measure(Scenario.CRASH, "caught_up_s"), DIRECT)
    assert spread is not None
    assert spread.middle == 7.0


@pytest.mark.parametrize(
    "results",
    [
        results_of(crash(0, 3, 3, 5, 5, 8)),
        results_of(crash(0, 3, 3, 5, 5, 9, duplicates=1)),
        results_of(crash(0, 3, 9)),  # before the writer was back: nothing was interrupted
        results_of(run(Scenario.CRASH, DIRECT, recovery_s=1.0)),
    ],
    ids=["row missing", "row missing and another duplicated", "all rows before the restart", "no samples"],
)
def test_time_to_catch_up_is_unknown(results: Results) -> None:
    assert Figures(results).spread(measure(Scenario.CRASH, "caught_up_s"), DIRECT) is None


def test_rates_count_every_row_even_a_burst_at_the_end() -> None:
    points = [(0.0, 0.0), (0.9, 15.0), (1.6, 60.0), (8.7, 75.0), (9.4, 150.0)]
    rates = list(rates_of(points, start=1.7))
    (second, _), (third, _) = rates[0], rates[1]
    assert sum(rate for _, rate in rates) * (third - second) == pytest.approx(150)
    assert rates[-1][1] == 0
    assert all(rate == 0 for when, rate in rates if 0 <= when < 4)
