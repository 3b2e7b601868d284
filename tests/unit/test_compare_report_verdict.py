"""The verdict follows from the figures, whatever they are."""

from typing import Any

import pytest

from tests.support.sample_results import results_of, run, sample_results
from write_batcher.compare.report.advice import ANY, Advice
from write_batcher.compare.report.prices import LIST_PRICE, Price
from write_batcher.compare.report.verdict import Verdict, judge
from write_batcher.compare.results import Contender, Results, Run, Scenario

DIRECT, SIGNAL, QUEUE, COMPLETION = (
    Contender.DIRECT,
    Contender.SIGNAL,
    Contender.QUEUE,
    Contender.QUEUE_COMPLETION,
)
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


def test_headline_prefers_few_transactions_and_then_few_actions() -> None:
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


def test_headline_does_not_depend_on_one_batch_more_or_less() -> None:
    said = verdict(load(SIGNAL, transactions=2, actions=3.0), load(COMPLETION, transactions=4, actions=1.0))
    assert said.headline == "When many workflows write at once, choose queue-completion."


def test_headline_follows_the_figures() -> None:
    said = verdict(load(DIRECT, transactions=1, actions=1.0), load(COMPLETION, transactions=50, actions=1.0))
    assert said.headline == "When many workflows write at once, choose direct."


def test_headline_passes_over_contenders_that_failed_workflows() -> None:
    said = verdict(load(DIRECT, transactions=1, actions=1.0, failed=5), load(SIGNAL, transactions=50, actions=3.0))
    assert said.headline == "When many workflows write at once, choose signal."


def test_headline_recommends_nobody_when_all_did_harm() -> None:
    said = verdict(load(DIRECT, transactions=1, actions=1, failed=5), load(SIGNAL, transactions=1, actions=3, lost=1))
    assert said.headline == "No design can be recommended: direct and signal failed, lost or duplicated writes."


def test_headline_of_one_contender_compares_nothing() -> None:
    assert verdict(load(QUEUE, transactions=1, actions=3)).headline == "Nothing to compare: only queue was measured."


def test_advice_states_its_figures() -> None:
    said = verdict(load(QUEUE, transactions=2, actions=3.0), load(COMPLETION, transactions=2, actions=1.1))
    assert advice_on(said, "actions").sentence == (
        "If Temporal actions, or their price, matter: queue-completion. Actions per write, with the list price of a "
        "million writes: 1.1 ($55) for queue-completion, compared with 3 ($150) for queue."
    )


def test_advice_names_contenders_that_are_not_considered() -> None:
    said = verdict(
        load(DIRECT, transactions=100, actions=1, latency=50, failed=5),
        load(QUEUE, transactions=2, actions=3, latency=200),
        load(SIGNAL, transactions=2, actions=3, latency=900),
    )
    assert advice_on(said, "wait").choose == "queue"
    assert advice_on(said, "wait").because == (
        (
            "200 ms for queue, compared with 900 ms for signal; "
            "not considered: direct with 50 ms, which failed 5 workflows"
        ),
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


def test_advice_on_a_crash_counts_the_last_write_not_the_next() -> None:
    said = advice_on(verdict(crash(DIRECT, 63.0, recovery_s=1.0), crash(QUEUE, 10.0, recovery_s=7.0)), "killed")
    assert said.choose == "queue"
    assert said.because == ("7 s for queue, compared with 60 s for direct",)


def test_reason_uses_the_given_price() -> None:
    price = Price(usd_per_million_actions=10, source="https://example.org", read="today")
    said = judge(results_of(load(QUEUE, transactions=2, actions=3.0)), price)
    assert "$30 per million writes" in said.reason


@pytest.mark.parametrize("contender", [QUEUE, COMPLETION])
def test_loss_by_this_library_is_an_alarm_that_says_where(contender: Contender) -> None:
    said = verdict(
        run(CRASH, contender, round=1, lost=2, duplicates=1),
        run(CRASH, contender, round=2, lost=1, duplicates=0),
        run(CRASH, SIGNAL, lost=0, duplicates=0),
    )
    (alarm,) = said.alarms
    assert alarm == (
        f"{contender} broke its promise: lost 3 rows and duplicated 1 row (crash, sqlite, rounds 1 and 2). "
        "Do not use it until this is understood."
    )


def test_contender_that_broke_a_promise_is_never_advised() -> None:
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
    assert said.warnings == ("direct duplicated 1 row (crash, sqlite, round 1).",)


def test_assurance_says_how_much_was_counted() -> None:
    said = verdict(
        run(CRASH, QUEUE, rows=400, lost=0), run(CRASH, SIGNAL, rows=100, lost=0), run(CRASH, DIRECT, lost=1)
    )
    assert said.assurance == "signal and queue lost and duplicated nothing: 500 rows in 2 runs were counted."
    assert verdict(run(CRASH, QUEUE, recovery_s=1)).assurance is None
    said = verdict(run(Scenario.GROWTH, QUEUE, writes=70, lost=0), run(CRASH, QUEUE, rows=9, lost=0))
    assert said.assurance == "queue lost and duplicated nothing: 79 rows in 2 runs were counted."


@pytest.mark.parametrize("contender", [QUEUE, COMPLETION])
def test_caller_that_failed_although_written_is_an_alarm(contender: Contender) -> None:
    said = verdict(
        load(contender, transactions=1, actions=1, failed_written=2), load(SIGNAL, transactions=9, actions=3)
    )
    assert said.headline == "When many workflows write at once, choose signal."
    (alarm,) = said.alarms
    assert "broke its promise: failed 2 callers that had written (load, sqlite, round 1)." in alarm
    assert "failed 2 callers whose rows are there" in advice_on(said, "actions").sentence


def test_advice_says_when_the_producers_limited_the_ceiling() -> None:
    ceiling = Scenario.CEILING
    said = verdict(
        run(ceiling, SIGNAL, writes_per_s=600, pushed_s=11.0, seconds=16.0),
        run(ceiling, QUEUE, writes_per_s=4200, pushed_s=2.75, seconds=2.85),
    )
    assert advice_on(said, "as it can").because == (
        "4,200/s (limited by the producers) for queue, compared with 600/s for signal",
    )


def test_unmeasured_run_is_named_and_not_judged() -> None:
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
        "Not measured: pressure, history growth, ceiling, crash, bad records and idle.",
        "Did not take part: direct-pooled, queue-completion and queue-paced.",
        "Load: some runs of direct on sqlite, queue on sqlite and queue on postgresql could not be measured.",
        "Crash: some runs of direct on sqlite could not be measured.",
    )


def test_load_up_to_which_one_by_one_does_is_told() -> None:
    said = verdict(
        run(Scenario.PRESSURE, DIRECT, holds_up_to_per_s=50),
        run(Scenario.PRESSURE, Contender.DIRECT_POOLED, holds_up_to_per_s=1_000),
        run(Scenario.PRESSURE, QUEUE, holds_up_to_per_s=5_000),
        run(Scenario.PRESSURE, Contender.QUEUE_PACED, holds_up_to_per_s=5_000),
    )
    assert said.headline.startswith(
        "On sqlite, up to 1,000 writes per second one transaction each does; above, or when others share the database, "
        "choose queue and queue-paced, up to 5,000."
    )
    slower = verdict(
        run(Scenario.PRESSURE, DIRECT, holds_up_to_per_s=5_000), run(Scenario.PRESSURE, QUEUE, holds_up_to_per_s=50)
    )
    assert "writes per second" not in slower.headline


def test_only_measured_contender_is_not_chosen_over_an_unmeasured_one() -> None:
    said = verdict(load(QUEUE, transactions=1, actions=3), run(LOAD, DIRECT))
    assert said.headline == "Nothing to compare: only queue was measured."


def test_missing_scenarios_are_named_and_not_judged() -> None:
    said = verdict(crash(QUEUE, 5.0), crash(SIGNAL, 9.0), run(POISON, SIGNAL, failed_good=0))
    assert [advice.when for advice in said.advice] == ["the writing process may be killed"]
    assert said.missing == (
        "Not measured: pressure, load, history growth, ceiling and idle.",
        "Did not take part: direct, direct-pooled, queue-completion and queue-paced.",
        "Bad records: not measured for queue.",
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
