"""What the report says follows from the figures, whatever they say."""

from typing import Any

import pytest

from tests.support.sample_results import results_of, run, sample_results
from write_batcher.compare.report.prices import LIST_PRICE, Price
from write_batcher.compare.report.verdict import ANY, Advice, Verdict, judge
from write_batcher.compare.results import Contender, Results, Run, Scenario

DIRECT, SIGNAL, QUEUE, COMPLETION = Contender
LOAD, CRASH, POISON = Scenario.LOAD, Scenario.CRASH, Scenario.POISON


def verdict(*runs: Run) -> Verdict:
    return judge(results_of(*runs), LIST_PRICE)


def load(contender: Contender, *, transactions: int, actions: float, latency: float = 100, **more: Any) -> Run:
    return run(
        LOAD,
        contender,
        rows=100,
        transactions=transactions,
        actions_per_write=actions,
        failed=more.pop("failed", 0),
        samples={"latency_ms": [latency]},
        **more,
    )


def crash(contender: Contender, last_s: float, *, recovery_s: float = 1.0) -> Run:
    return run(
        CRASH,
        contender,
        workflows=2,
        rows=2,
        recovery_s=recovery_s,
        killed_at_s=3.0,
        restarted_at_s=4.0,
        samples={"points": [{"s": 0.0, "rows": 0}, {"s": last_s, "rows": 2}]},
    )


def advice_on(verdict: Verdict, words: str) -> Advice:
    return next(advice for advice in verdict.advice if words in advice.when)


def test_headline_is_few_transactions_and_then_the_fewest_actions() -> None:
    said = verdict(
        load(DIRECT, transactions=100, actions=1.0),
        load(QUEUE, transactions=2, actions=3.0),
        load(COMPLETION, transactions=2, actions=1.1),
    )
    assert said.headline == "When many workflows write at once, choose queue-completion."
    assert said.reason == (
        "On sqlite: 2 transactions per 100 writes, 1.1 Temporal actions per write ($55 per million writes) "
        "and a receipt after 100 ms (median)."
    )


def test_headline_does_not_hang_on_one_batch_more_or_less() -> None:
    said = verdict(load(SIGNAL, transactions=2, actions=3.0), load(COMPLETION, transactions=4, actions=1.0))
    assert said.headline == "When many workflows write at once, choose queue-completion."


def test_headline_goes_to_the_other_when_the_figures_do() -> None:
    said = verdict(load(DIRECT, transactions=1, actions=1.0), load(COMPLETION, transactions=50, actions=1.0))
    assert said.headline == "When many workflows write at once, choose direct."


def test_headline_passes_over_who_failed_workflows() -> None:
    said = verdict(load(DIRECT, transactions=1, actions=1.0, failed=5), load(SIGNAL, transactions=50, actions=3.0))
    assert said.headline == "When many workflows write at once, choose signal."


def test_headline_recommends_nobody_when_all_did_harm() -> None:
    said = verdict(load(DIRECT, transactions=1, actions=1, failed=5), load(SIGNAL, transactions=1, actions=3, lost=1))
    assert said.headline == "None can be recommended: direct and signal failed, lost or doubled writes."


def test_headline_of_one_contender_compares_nothing() -> None:
    assert verdict(load(QUEUE, transactions=1, actions=3)).headline == "Nothing to compare: queue alone was measured."


def test_advice_has_the_numbers_in_its_sentence() -> None:
    said = verdict(load(QUEUE, transactions=2, actions=3.0), load(COMPLETION, transactions=2, actions=1.1))
    assert advice_on(said, "actions").sentence == (
        "If Temporal actions, or their price, matter: queue-completion. Actions per write, with the list price of a "
        "million writes: 1.1 ($55) for queue-completion, instead of 3 ($150) for queue."
    )


def test_advice_names_who_is_not_considered_and_why() -> None:
    said = verdict(
        load(DIRECT, transactions=100, actions=1, latency=50, failed=5),
        load(QUEUE, transactions=2, actions=3, latency=200),
        load(SIGNAL, transactions=2, actions=3, latency=900),
    )
    assert advice_on(said, "wait").choose == "queue"
    assert advice_on(said, "wait").because == (
        "200 ms for queue, instead of 900 ms for signal; not considered is direct with 50 ms, which failed 5 workflows",
    )


def test_advice_is_any_of_them_when_there_is_no_difference() -> None:
    said = verdict(load(DIRECT, transactions=1, actions=1), load(QUEUE, transactions=1, actions=1))
    assert advice_on(said, "at once").choose == ANY


def test_advice_tells_databases_apart_where_they_differ() -> None:
    said = verdict(
        load(DIRECT, transactions=1, actions=1, latency=10),
        load(QUEUE, transactions=1, actions=1, latency=90),
        load(DIRECT, transactions=1, actions=1, latency=90, database="postgresql"),
        load(QUEUE, transactions=1, actions=1, latency=10, database="postgresql"),
    )
    assert advice_on(said, "wait").choose == "direct on sqlite; queue on postgresql"


def test_advice_on_a_crash_counts_the_last_write_and_not_the_next_one() -> None:
    said = advice_on(verdict(crash(DIRECT, 63.0, recovery_s=1.0), crash(QUEUE, 10.0, recovery_s=7.0)), "killed")
    assert said.choose == "queue"
    assert said.because == ("7 s for queue, instead of 60 s for direct",)


def test_price_is_the_one_that_was_given() -> None:
    price = Price(usd_per_million_actions=10, source="https://example.org", read="today")
    said = judge(results_of(load(QUEUE, transactions=2, actions=3.0)), price)
    assert "$30 per million writes" in said.reason


@pytest.mark.parametrize("contender", [QUEUE, COMPLETION])
def test_loss_by_this_library_is_an_alarm_with_its_place(contender: Contender) -> None:
    said = verdict(
        run(CRASH, contender, round=1, lost=2, duplicates=1),
        run(CRASH, contender, round=2, lost=1, duplicates=0),
        run(CRASH, SIGNAL, lost=0, duplicates=0),
    )
    (alarm,) = said.alarms
    assert alarm == (
        f"{contender} broke its promise: lost 3 rows and doubled 1 row (crash, sqlite, rounds 1 and 2). "
        "Do not use it before this is understood."
    )


def test_broken_promise_bars_from_every_advice() -> None:
    said = verdict(
        load(QUEUE, transactions=1, actions=1),
        load(SIGNAL, transactions=90, actions=3),
        run(CRASH, QUEUE, duplicates=1),
        run(POISON, QUEUE, failed_good=0),
        run(POISON, SIGNAL, failed_good=4),
    )
    assert said.headline == "When many workflows write at once, choose signal."
    assert [advice.sentence for advice in said.advice if "queue" in advice.choose] == []
    assert "queue with 1 ($50), which broke its promise" in advice_on(said, "actions").sentence


def test_loss_by_another_design_is_a_warning() -> None:
    said = verdict(run(CRASH, DIRECT, duplicates=1), run(CRASH, QUEUE, duplicates=0))
    assert said.alarms == ()
    assert said.warnings == ("direct doubled 1 row (crash, sqlite, round 1).",)


def test_assurance_says_how_much_was_counted() -> None:
    said = verdict(
        run(CRASH, QUEUE, rows=400, lost=0), run(CRASH, SIGNAL, rows=100, lost=0), run(CRASH, DIRECT, lost=1)
    )
    assert said.assurance == "signal and queue lost nothing and doubled nothing: 500 rows of 2 runs were counted."
    assert verdict(run(CRASH, QUEUE, recovery_s=1)).assurance is None
    said = verdict(run(Scenario.GROWTH, QUEUE, writes=70, lost=0), run(CRASH, QUEUE, rows=9, lost=0))
    assert said.assurance == "queue lost nothing and doubled nothing: 79 rows of 2 runs were counted."


@pytest.mark.parametrize("contender", [QUEUE, COMPLETION])
def test_caller_of_this_library_that_failed_although_it_has_written_is_an_alarm(contender: Contender) -> None:
    said = verdict(
        load(contender, transactions=1, actions=1, failed_written=2), load(SIGNAL, transactions=9, actions=3)
    )
    assert said.headline == "When many workflows write at once, choose signal."
    (alarm,) = said.alarms
    assert "broke its promise: failed 2 callers although written (load, sqlite, round 1)." in alarm
    assert "failed 2 callers whose rows are there" in advice_on(said, "actions").sentence


def test_ceiling_that_the_producers_set_is_none() -> None:
    ceiling = Scenario.CEILING
    said = verdict(
        run(ceiling, SIGNAL, writes_per_s=600, pushed_s=11.0, seconds=16.0),
        run(ceiling, QUEUE, writes_per_s=4200, pushed_s=2.75, seconds=2.85),
    )
    assert advice_on(said, "as it can").because == (
        "4,200/s (limited by the producers) for queue, instead of 600/s for signal",
    )


def test_run_that_could_not_be_measured_took_no_part_and_is_named() -> None:
    said = verdict(
        load(SIGNAL, transactions=1, actions=3),
        load(QUEUE, transactions=1, actions=3),
        run(LOAD, DIRECT),
        run(CRASH, DIRECT),
        run(LOAD, QUEUE, round=2),
        run(LOAD, QUEUE, database="postgresql"),
    )
    assert all("direct" not in advice.sentence for advice in said.advice)
    assert said.headline == "When many workflows write at once, choose signal and queue."
    assert said.missing == (
        "Not measured: history growth, ceiling, crash, bad records and idle.",
        "Did not take part: queue-completion.",
        "Load could not be measured in every run of direct on sqlite, queue on sqlite and queue on postgresql.",
        "Crash could not be measured in every run of direct on sqlite.",
    )


def test_single_contender_that_was_measured_is_not_chosen_over_one_that_was_not() -> None:
    said = verdict(load(QUEUE, transactions=1, actions=3), run(LOAD, DIRECT))
    assert said.headline == "Nothing to compare: queue alone was measured."


def test_what_was_not_measured_is_said_and_not_judged() -> None:
    said = verdict(crash(QUEUE, 5.0), crash(SIGNAL, 9.0), run(POISON, SIGNAL, failed_good=0))
    assert [advice.when for advice in said.advice] == ["the writing process may be killed"]
    assert said.missing == (
        "Not measured: load, history growth, ceiling and idle.",
        "Did not take part: direct and queue-completion.",
        "Bad records was not measured for queue.",
    )


@pytest.mark.parametrize(
    "results",
    [
        results_of(),
        sample_results(rounds=1),
        *(sample_results(rounds=1, scenarios=[scenario]) for scenario in Scenario),
        *(sample_results(rounds=1, contenders=[contender]) for contender in Contender),
        results_of(*(run(scenario, contender) for scenario in Scenario for contender in Contender)),
    ],
)
def test_any_subset_can_be_judged(results: Results) -> None:
    assert judge(results, LIST_PRICE).headline
