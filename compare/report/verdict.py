"""The verdict on a comparison: sentences that follow from the figures, whatever these are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from write_batcher.compare.report.advice import QUESTIONS, Advice, advice_on
from write_batcher.compare.report.figures import Figures, best_of
from write_batcher.compare.report.formatting import SCENARIOS, format_figure, listed
from write_batcher.compare.report.harm import describe_broken_promises, describe_kept_promises
from write_batcher.compare.report.measures import measure
from write_batcher.compare.report.prices import Price
from write_batcher.compare.results import LIBRARY, Contender, Results, Scenario
from write_batcher.compare.scale import LEFT_OUT

# In the headline, contenders this close in one figure are told apart by the next one: a small difference must not
# decide it.
HEADLINE_WITHIN = 0.25
ONE_BY_ONE = (Contender.DIRECT, Contender.DIRECT_POOLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison says, the most important first."""

    headline: str
    reason: str
    """The figures that the headline rests on; may be empty."""
    alarms: tuple[str, ...]
    """Promises that this library broke: to be seen before anything else."""
    warnings: tuple[str, ...]
    """Writes that other contenders lost or duplicated."""
    assurance: str | None
    """Who lost and duplicated nothing, in how many runs."""
    advice: tuple[Advice, ...]
    missing: tuple[str, ...]
    """What was not measured, and is therefore not judged."""


def judge(results: Results, price: Price) -> Verdict:
    """Return what the figures say, and nothing about what was not measured."""
    figures = Figures(results)
    broken = {contender: describe_broken_promises(figures, contender) for contender in figures.contenders()}
    headline, reason = _headline(figures, price, broken)
    headline = " ".join([*_thresholds(figures, broken), headline])
    return Verdict(
        headline=headline,
        reason=reason,
        alarms=tuple(
            f"{contender} broke its promise: {broken[contender]}. Do not use it until this is understood."
            for contender in LIBRARY
            if broken.get(contender)
        ),
        warnings=tuple(
            f"{contender} {what}." for contender, what in broken.items() if what and contender not in LIBRARY
        ),
        assurance=describe_kept_promises(figures, [contender for contender, what in broken.items() if not what]),
        advice=tuple(advice for question in QUESTIONS if (advice := advice_on(question, figures, price))),
        missing=tuple(_missing(figures)),
    )


def _headline(figures: Figures, price: Price, broken: Mapping[Contender, str]) -> tuple[str, str]:
    """Return the choice for many workflows at once, and its figures.

    Of the contenders that failed, lost and duplicated nothing anywhere: those with few transactions; of these, those
    with the fewest actions; of these, those with the shortest wait.
    """
    databases = figures.databases(Scenario.LOAD)
    if not databases:
        return "No design can be recommended in general: load was not measured.", ""
    database = databases[0]
    took_part = figures.contenders(Scenario.LOAD, database)
    harmless = [
        contender for contender in took_part if not figures.did_harm(Scenario.LOAD, contender) and not broken[contender]
    ]
    if not harmless:
        return f"No design can be recommended: {listed(took_part)} failed, lost or duplicated writes.", ""
    if len(took_part) == 1:
        return (
            f"Nothing to compare: only {took_part[0]} was measured.",
            _load_figures(figures, harmless[0], database, price),
        )
    choice = harmless
    for name in ("transactions_per_100", "actions_per_write", "latency_p50"):
        asked = measure(Scenario.LOAD, name)
        spreads = {one: spread for one, spread in figures.spreads(asked, database).items() if one in choice}
        choice = best_of(spreads, asked, HEADLINE_WITHIN) or choice
    return (
        f"When many workflows write at once, choose {listed(choice)}.",
        _load_figures(figures, choice[0], database, price),
    )


def _thresholds(figures: Figures, broken: Mapping[Contender, str]) -> Iterator[str]:
    """Yield for each database up to which load writing one by one does, if a contender of this library does more."""
    holds = measure(Scenario.PRESSURE, "holds_up_to_per_s")
    for database in figures.databases(Scenario.PRESSURE):
        rates = {one: spread.middle for one, spread in figures.spreads(holds, database).items() if not broken.get(one)}
        singly = max((rates[one] for one in ONE_BY_ONE if one in rates), default=None)
        library = {one: rates[one] for one in LIBRARY if one in rates}
        if singly is None or not library or max(library.values()) <= singly:
            continue
        most = max(library.values())
        best = [contender for contender, rate in library.items() if rate == most]
        yield (
            f"On {database}, up to {format_figure(singly, 'count')} writes per second one transaction each does; "
            f"above, or when others share the database, choose {listed(best)}, up to {format_figure(most, 'count')}."
        )


def _load_figures(figures: Figures, contender: Contender, database: str, price: Price) -> str:
    transactions, actions, latency = (
        figures.spread(measure(Scenario.LOAD, name), contender, database)
        for name in ("transactions_per_100", "actions_per_write", "latency_p50")
    )
    parts = []
    if transactions:
        parts.append(f"{format_figure(transactions.middle, 'number')} transactions per 100 writes")
    if actions:
        number = format_figure(actions.middle, "number")
        cost = format_figure(price.of_million_writes(actions.middle), "usd")
        parts.append(f"{number} Temporal actions per write ({cost} per million writes)")
    if latency:
        parts.append(f"a receipt after {format_figure(latency.middle, 'ms')} (median)")
    return f"On {database}: {listed(parts)}." if parts else ""


def _missing(figures: Figures) -> Iterator[str]:
    """Yield scenarios that nobody ran, contenders that skipped one that others ran, and runs that failed."""
    measured = figures.scenarios()
    tried = {(run.scenario, run.contender) for run in figures.unmeasured}
    if absent := [SCENARIOS[scenario].lower() for scenario in Scenario if scenario not in measured]:
        yield f"Not measured: {listed(absent)}."
    took_part = figures.contenders()
    entered = {*took_part, *(contender for _, contender in tried)}
    if measured and (stayed_out := [contender for contender in Contender if contender not in entered]):
        yield f"Did not take part: {listed(stayed_out)}."
    for scenario in measured:
        present = {*figures.contenders(scenario), *(contender for of, contender in tried if of is scenario)}
        wanted = [contender for contender in took_part if (scenario, contender) not in LEFT_OUT]
        if skipped := [contender for contender in wanted if contender not in present]:
            yield f"{SCENARIOS[scenario]}: not measured for {listed(skipped)}."
    for scenario in Scenario:
        failed = dict.fromkeys(
            f"{run.contender} on {run.database}" for run in figures.unmeasured if run.scenario is scenario
        )
        if failed:
            yield f"{SCENARIOS[scenario]}: some runs of {listed(failed)} could not be measured."
