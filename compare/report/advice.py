"""Which contender to choose when one thing matters most."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from write_batcher.compare.report.figures import Figures
from write_batcher.compare.report.formatting import format_figure, listed
from write_batcher.compare.report.harm import describe_harm
from write_batcher.compare.report.measures import Measure, measure
from write_batcher.compare.report.prices import Price
from write_batcher.compare.results import Contender, Scenario

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
    """The figures, one text per database."""

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return f"If {self.when}: {self.choose}. {self.figures}: {'; '.join(self.because)}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A choice that a measure decides."""

    when: str
    measure: Measure
    figures: str
    """See `Advice.figures`."""


QUESTIONS = (
    Question(
        when="much is written at times",
        measure=measure(Scenario.PRESSURE, "holds_up_to_per_s"),
        figures="Writes per second of which 99 % are committed, and 99 % of these within a second",
    ),
    Question(
        when="others share the database",
        measure=measure(Scenario.PRESSURE, "bystander_busy_p99_ms"),
        figures="What another application waits while 1,000 writes per second are offered, p99",
    ),
    Question(
        when="the database is what you must protect",
        measure=measure(Scenario.LOAD, "transactions_per_100"),
        figures="Transactions per 100 writes",
    ),
    Question(
        when="callers must not wait",
        measure=measure(Scenario.LOAD, "latency_p50"),
        figures="From submit to receipt, median",
    ),
    Question(
        when="Temporal actions, or their price, matter",
        measure=measure(Scenario.LOAD, "actions_per_write"),
        figures="Actions per write, with the list price of a million writes",
    ),
    Question(
        when="many workflows start at once",
        measure=measure(Scenario.LOAD, "failed"),
        figures="Workflows failed, all rounds together",
    ),
    Question(
        when="one batcher must write as much as it can",
        measure=measure(Scenario.CEILING, "writes_per_s"),
        figures="Writes per second, without callers",
    ),
    Question(
        when="the batcher never stops",
        measure=measure(Scenario.GROWTH, "max_events"),
        figures="Longest history",
    ),
    Question(
        when="the writing process may be killed",
        measure=measure(Scenario.CRASH, "caught_up_s"),
        figures="From the kill until all writes are there",
    ),
    Question(
        when="some records are bad",
        measure=measure(Scenario.POISON, "failed_good"),
        figures="Callers that failed although their record was good",
    ),
    Question(
        when="there is often nothing to do",
        measure=measure(Scenario.IDLE, "actions_per_day"),
        figures="Actions per idle day",
    ),
)


def advice_on(question: Question, figures: Figures, price: Price) -> Advice | None:
    """Return the answer to a question; None when fewer than two contenders have the measure."""
    asked = question.measure
    databases = [name for name in figures.databases(asked.scenario) if len(figures.spreads(asked, name)) > 1]
    if not databases:
        return None
    choices = {name: _choice(figures, asked, name) for name in databases}
    if len(set(choices.values())) == 1:
        choose = choices[databases[0]]
    else:
        choose = "; ".join(f"{choice} on {name}" for name, choice in choices.items())
    several_databases = len(figures.databases()) > 1
    because = [
        (f"on {name} " if several_databases else "") + _comparison(figures, asked, name, price) for name in databases
    ]
    return Advice(when=question.when, choose=choose, figures=question.figures, because=tuple(because))


def _choice(figures: Figures, asked: Measure, database: str) -> str:
    winners = figures.best(asked, database)
    if winners:
        return listed(winners)
    did_harm = [figures.did_harm(asked.scenario, contender, database) for contender in figures.spreads(asked, database)]
    return NONE if all(did_harm) else ANY


def _comparison(figures: Figures, asked: Measure, database: str, price: Price) -> str:
    """Return `1.1 for queue, compared with 3 for signal and 100 for direct`, and who is not considered."""
    spreads = figures.spreads(asked, database)
    winners = figures.best(asked, database)
    excluded = [
        contender
        for contender in spreads
        if contender in figures.untrusted
        or (not asked.is_harm and figures.did_harm(asked.scenario, contender, database))
    ]
    texts = {contender: _text(asked, spread.middle, price) for contender, spread in spreads.items()}
    if asked.scenario is Scenario.CEILING:
        texts |= {
            contender: f"{texts[contender]} (limited by the producers)"
            for contender in figures.limited_by_producers(database)
        }
    ranked = sorted(spreads, key=lambda contender: spreads[contender].middle, reverse=asked.better == "more")
    first, others = _grouped(
        ([one for one in ranked if one not in excluded and (one in winners) is wins] for wins in (True, False)), texts
    )
    parts = [", compared with ".join(part for part in (first, others) if part)]
    parts += [
        f"not considered: {contender} with {texts[contender]}, which "
        f"{describe_harm(figures, asked.scenario, contender, database)}"
        for contender in excluded
    ]
    return "; ".join(part for part in parts if part)


def _grouped(groups: Iterable[Sequence[Contender]], texts: dict[Contender, str]) -> Iterator[str]:
    """Yield `0 for queue and signal, 12 for direct` for each group; an empty text for an empty group."""
    for group in groups:
        different = dict.fromkeys(texts[contender] for contender in group)
        parts = [f"{text} for {listed(one for one in group if texts[one] == text)}" for text in different]
        yield ", ".join(parts)


def _text(asked: Measure, value: float, price: Price) -> str:
    text = format_figure(value, asked.kind)
    if asked.figure == "actions_per_write":
        return f"{text} ({format_figure(price.of_million_writes(value), 'usd')})"
    return text
