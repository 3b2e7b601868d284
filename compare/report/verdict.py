"""Which design to choose when: sentences that follow from the figures, whatever they say."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from write_batcher.compare.report.figures import Figures, best_of, number
from write_batcher.compare.report.formatting import SCENARIOS, counted, figure, listed
from write_batcher.compare.report.measures import HARMS, Measure, measure
from write_batcher.compare.report.prices import Price
from write_batcher.compare.results import BROKEN_PROMISES, LIBRARY, Contender, Results, Run, Scenario

HEADLINE_WITHIN = 0.25
"""Contenders this close in one figure are told apart by the next one: the headline must not hang on a hair."""
ANY = "any of them"
NONE = "none of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to choose when something matters most."""

    when: str
    choose: str
    """One or more contenders, `ANY` or `NONE`."""
    figures: str
    """What was measured, in a few words."""
    because: tuple[str, ...]
    """The figures themselves, per database."""

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return f"If {self.when}: {self.choose}. {self.figures}: {'; '.join(self.because)}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison says, first things first."""

    headline: str
    reason: str
    """The figures that the headline rests on; may be empty."""
    alarms: tuple[str, ...]
    """A contender of this library lost or doubled writes: must be seen before anything else."""
    warnings: tuple[str, ...]
    """Others lost or doubled writes."""
    assurance: str | None
    """What did not happen, in how many runs."""
    advice: tuple[Advice, ...]
    missing: tuple[str, ...]
    """What was not measured, and is therefore not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    when: str
    measure: Measure
    says: str
    """What the figures are, before a colon."""


QUESTIONS = (
    _Question(
        when="the database is what you must protect",
        measure=measure(Scenario.LOAD, "transactions_per_100"),
        says="Transactions per 100 writes",
    ),
    _Question(
        when="callers must not wait",
        measure=measure(Scenario.LOAD, "latency_p50"),
        says="From submit to receipt, median",
    ),
    _Question(
        when="Temporal actions, or their price, matter",
        measure=measure(Scenario.LOAD, "actions_per_write"),
        says="Actions per write, with the list price of a million writes",
    ),
    _Question(
        when="many workflows start at once",
        measure=measure(Scenario.LOAD, "failed"),
        says="Workflows failed, all rounds together",
    ),
    _Question(
        when="one batcher must write as much as it can",
        measure=measure(Scenario.CEILING, "writes_per_s"),
        says="Writes per second, without callers",
    ),
    _Question(
        when="the batcher runs without end",
        measure=measure(Scenario.GROWTH, "max_events"),
        says="Longest history",
    ),
    _Question(
        when="the writing process may be killed",
        measure=measure(Scenario.CRASH, "caught_up_s"),
        says="From the kill until all writes are there",
    ),
    _Question(
        when="some records are bad",
        measure=measure(Scenario.POISON, "failed_good"),
        says="Callers that failed although their record was good",
    ),
    _Question(
        when="there is often nothing to do",
        measure=measure(Scenario.IDLE, "actions_per_day"),
        says="Actions per idle day",
    ),
)


def judge(results: Results, price: Price) -> Verdict:
    """Everything that can be said, and nothing about what was not measured."""
    figures = Figures(results)
    broken = {contender: _broken(figures, contender) for contender in figures.contenders()}
    headline, reason = _headline(figures, price)
    return Verdict(
        headline=headline,
        reason=reason,
        alarms=tuple(
            f"{contender} broke its promise: {broken[contender]}. Do not use it before this is understood."
            for contender in LIBRARY
            if broken.get(contender)
        ),
        warnings=tuple(
            f"{contender} {what}." for contender, what in broken.items() if what and contender not in LIBRARY
        ),
        assurance=_assurance(figures, [contender for contender, what in broken.items() if not what]),
        advice=tuple(advice for question in QUESTIONS if (advice := _answer(figures, question, price))),
        missing=tuple(_missing(figures)),
    )


def _broken(figures: Figures, contender: Contender) -> str:
    """`lost 3 rows and doubled 1 row (crash, sqlite, rounds 1 and 2)`; empty if all is well."""
    told = []
    for scenario in figures.scenarios():
        for database in figures.databases(scenario):
            runs = [run for run in figures.of(scenario, contender, database) if any(_breaks(run))]
            if not runs:
                continue
            lost, doubled, failed = map(sum, zip(*map(_breaks, runs), strict=True))
            parts = [f"lost {counted(lost, 'row')}"] if lost else []
            parts += [f"doubled {counted(doubled, 'row')}"] if doubled else []
            parts += [f"failed {counted(failed, 'caller')} although written"] if failed else []
            rounds = f"round{'s' if len(runs) > 1 else ''} {listed(str(run.round) for run in runs)}"
            told.append(f"{listed(parts)} ({SCENARIOS[scenario].lower()}, {database}, {rounds})")
    return "; ".join(told)


def _breaks(run: Run) -> list[float]:
    """Rows lost, rows doubled, and callers that failed although their row is there."""
    return [max(0, number(run.figures.get(name)) or 0) for name in BROKEN_PROMISES]


def _assurance(figures: Figures, unbroken: Sequence[Contender]) -> str | None:
    """How much was looked at is part of the claim: nothing lost in no run is no claim."""
    looked_at = [
        run
        for run in figures.runs
        if run.contender in unbroken and any(number(run.figures.get(name)) is not None for name in BROKEN_PROMISES)
    ]
    if not looked_at:
        return None
    names = [contender for contender in Contender if any(run.contender is contender for run in looked_at)]
    rows = sum(_rows(run) for run in looked_at)
    return (
        f"{listed(names)} lost nothing and doubled nothing: {counted(rows, 'row')} "
        f"of {counted(len(looked_at), 'run')} were counted."
    )


def _rows(run: Run) -> float:
    """What growth counts are `writes`."""
    found = (number(run.figures.get(name)) for name in ("rows", "writes"))
    return next((rows for rows in found if rows is not None), 0)


def _headline(figures: Figures, price: Price) -> tuple[str, str]:
    """For many workflows at once, of those that failed none and lost or doubled nothing anywhere: who needs few
    transactions; of those, who needs the fewest actions; if alike, who waits the shortest.
    """
    databases = figures.databases(Scenario.LOAD)
    if not databases:
        return "No design can be recommended in general: load was not measured.", ""
    database = databases[0]
    took_part = figures.contenders(Scenario.LOAD, database)
    unharmed = [one for one in took_part if not figures.harmed(Scenario.LOAD, one) and not _broken(figures, one)]
    if not unharmed:
        return f"None can be recommended: {listed(took_part)} failed, lost or doubled writes.", ""
    if len(took_part) == 1:
        return f"Nothing to compare: {took_part[0]} alone was measured.", _rests_on(
            figures, unharmed[0], database, price
        )
    choice = unharmed
    for name in ("transactions_per_100", "actions_per_write", "latency_p50"):
        row = measure(Scenario.LOAD, name)
        spreads = {one: spread for one, spread in figures.spreads(row, database).items() if one in choice}
        choice = best_of(spreads, row, HEADLINE_WITHIN) or choice
    return (
        f"When many workflows write at once, choose {listed(choice)}.",
        _rests_on(figures, choice[0], database, price),
    )


def _rests_on(figures: Figures, contender: Contender, database: str, price: Price) -> str:
    transactions, actions, latency = (
        figures.spread(measure(Scenario.LOAD, name), contender, database)
        for name in ("transactions_per_100", "actions_per_write", "latency_p50")
    )
    parts = []
    if transactions:
        parts.append(f"{figure(transactions.middle, 'number')} transactions per 100 writes")
    if actions:
        cost = figure(price.of_million_writes(actions.middle), "usd")
        parts.append(f"{figure(actions.middle, 'number')} Temporal actions per write ({cost} per million writes)")
    if latency:
        parts.append(f"a receipt after {figure(latency.middle, 'ms')} (median)")
    return f"On {database}: {listed(parts)}." if parts else ""


def _answer(figures: Figures, question: _Question, price: Price) -> Advice | None:
    """None when fewer than two contenders have the figure: nothing to choose from."""
    row = question.measure
    databases = [name for name in figures.databases(row.scenario) if len(figures.spreads(row, name)) > 1]
    if not databases:
        return None
    choices = {name: _choose(figures, row, name) for name in databases}
    if len(set(choices.values())) == 1:
        choose = choices[databases[0]]
    else:
        choose = "; ".join(f"{choice} on {name}" for name, choice in choices.items())
    several = len(figures.databases()) > 1
    because = [(f"on {name} " if several else "") + _compared(figures, row, name, price) for name in databases]
    return Advice(when=question.when, choose=choose, figures=question.says, because=tuple(because))


def _choose(figures: Figures, row: Measure, database: str) -> str:
    winners = figures.best(row, database)
    if winners:
        return listed(winners)
    harmed = [figures.harmed(row.scenario, contender, database) for contender in figures.spreads(row, database)]
    return NONE if all(harmed) else ANY


def _compared(figures: Figures, row: Measure, database: str, price: Price) -> str:
    """`1.1 for queue, instead of 3 for signal and 100 for direct`, and who is not considered."""
    spreads = figures.spreads(row, database)
    winners = figures.best(row, database)
    spoilt = [
        one
        for one in spreads
        if one in figures.untrusted or (not row.is_harm and figures.harmed(row.scenario, one, database))
    ]
    told = {contender: _told(row, spread.middle, price) for contender, spread in spreads.items()}
    if row.scenario is Scenario.CEILING:
        told |= {one: f"{told[one]} (limited by the producers)" for one in figures.limited(database)}
    ranked = sorted(spreads, key=lambda contender: spreads[contender].middle, reverse=row.better == "more")
    first, others = _grouped(
        ([one for one in ranked if one not in spoilt and (one in winners) is wins] for wins in (True, False)), told
    )
    parts = [", instead of ".join(part for part in (first, others) if part)]
    parts += [
        f"not considered is {one} with {told[one]}, which {harm(figures, row.scenario, one, database)}"
        for one in spoilt
    ]
    return "; ".join(part for part in parts if part)


def _grouped(groups: Iterable[Sequence[Contender]], told: dict[Contender, str]) -> Iterator[str]:
    """`0 for queue and signal, 12 for direct`; an empty group is an empty text."""
    for group in groups:
        texts = dict.fromkeys(told[contender] for contender in group)
        parts = [f"{text} for {listed(one for one in group if told[one] == text)}" for text in texts]
        yield ", ".join(parts)


def _told(row: Measure, value: float, price: Price) -> str:
    text = figure(value, row.kind)
    if row.figure == "actions_per_write":
        return f"{text} ({figure(price.of_million_writes(value), 'usd')})"
    return text


def harm(figures: Figures, scenario: Scenario, contender: Contender, database: str | None = None) -> str:
    """`failed 120 workflows and lost 3 rows`."""
    words = {
        "failed": ("workflow",),
        "failed_good": ("good caller",),
        "failed_written": ("caller whose row is there", "callers whose rows are there"),
        "lost": ("row",),
        "duplicates": ("row",),
    }
    verbs = {"lost": "lost", "duplicates": "doubled"}
    totals = {name: figures.total(scenario, name, contender, database) for name in HARMS.get(scenario, BROKEN_PROMISES)}
    told = [f"{verbs.get(name, 'failed')} {counted(total, *words[name])}" for name, total in totals.items() if total]
    return listed(told) if told else "broke its promise"


def _missing(figures: Figures) -> Iterator[str]:
    """Scenarios that nobody ran, contenders that stayed out of one that others ran, and what failed to be measured."""
    measured = figures.scenarios()
    tried = {(run.scenario, run.contender) for run in figures.unmeasured}
    if absent := [SCENARIOS[one].lower() for one in Scenario if one not in measured]:
        yield f"Not measured: {listed(absent)}."
    took_part = figures.contenders()
    entered = {*took_part, *(contender for _, contender in tried)}
    if measured and (strangers := [contender for contender in Contender if contender not in entered]):
        yield f"Did not take part: {listed(strangers)}."
    for scenario in measured:
        present = {*figures.contenders(scenario), *(contender for of, contender in tried if of is scenario)}
        if stayed_out := [contender for contender in took_part if contender not in present]:
            yield f"{SCENARIOS[scenario]} was not measured for {listed(stayed_out)}."
    for scenario in Scenario:
        failed = dict.fromkeys(
            f"{run.contender} on {run.database}" for run in figures.unmeasured if run.scenario is scenario
        )
        if failed:
            yield f"{SCENARIOS[scenario]} could not be measured in every run of {listed(failed)}."
