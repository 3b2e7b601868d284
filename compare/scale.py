"""What a comparison runs: how much, how often, and in which order."""

import random
from dataclasses import dataclass
from datetime import timedelta

from write_batcher.compare.results import Contender, Scenario
from write_batcher.workers.embedded.local_stack import Database

SIMULTANEOUS = frozenset({Scenario.IDLE})  # all contenders at once: they are counted, and noise does not change counts

# The other scenarios show what a design does, whatever the database, and run on the first one.
ON_EVERY_DATABASE = frozenset({Scenario.PRESSURE, Scenario.LOAD})

NO_BATCHER = "{scenario} leaves out direct: it has no batcher"
SAME_AS_QUEUE = "{scenario} leaves out queue-completion: without callers to confirm to it is the same as queue"
SAME_CONFIRMATION = "{scenario} leaves out queue-completion: nobody is confirmed to there"
POOL_SHOWN_UNDER_PRESSURE = "direct-pooled is measured under pressure alone: it shows what a pool changes"
PACE_SHOWN_ELSEWHERE = "queue-paced is measured under pressure and load alone: a pace changes nothing elsewhere"
LEFT_OUT: dict[tuple[Scenario, Contender], str] = {
    (Scenario.PRESSURE, Contender.QUEUE_COMPLETION): SAME_CONFIRMATION,
    (Scenario.GROWTH, Contender.DIRECT): NO_BATCHER,
    (Scenario.CEILING, Contender.DIRECT): NO_BATCHER,
    (Scenario.GROWTH, Contender.QUEUE_COMPLETION): SAME_AS_QUEUE,
    (Scenario.CEILING, Contender.QUEUE_COMPLETION): SAME_AS_QUEUE,
}
LEFT_OUT |= {
    (scenario, Contender.DIRECT_POOLED): POOL_SHOWN_UNDER_PRESSURE
    for scenario in Scenario
    if scenario is not Scenario.PRESSURE
}
LEFT_OUT |= {
    (scenario, Contender.QUEUE_PACED): PACE_SHOWN_ELSEWHERE
    for scenario in Scenario
    if scenario not in (Scenario.PRESSURE, Scenario.LOAD)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much a comparison runs."""

    scenarios: tuple[Scenario, ...] = tuple(Scenario)
    contenders: tuple[Contender, ...] = tuple(Contender)
    databases: tuple[Database, ...] = ("sqlite", "postgresql")
    workflows: int = 300
    """Callers in `load`, `crash` and `poison`."""
    requests: int = 12_000
    """Pushed straight at a batcher in `growth` and `ceiling`."""
    rounds: int = 1
    seed: int = 0
    max_items: int = 100
    max_wait: timedelta = timedelta(seconds=2)
    idle: timedelta = timedelta(seconds=60)
    connection_limit: int = 20
    """Connections that an embedded PostgreSQL accepts, but under `pressure`: there it has its default, 100."""
    pressure_rates: tuple[int, ...] = (5, 50, 200, 1_000, 5_000, 20_000)
    """Writes per second that are offered, one step after the other."""
    pressure_step_s: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Contenders that are measured at the same time: one, except in `SIMULTANEOUS` scenarios."""

    round: int
    scenario: Scenario
    database: Database
    contenders: tuple[Contender, ...]

    def __str__(self) -> str:
        return f"{self.scenario} on {self.database}, {' and '.join(self.contenders)}"


def steps(scale: Scale) -> list[Step]:
    """Return all steps, round after round, so that a machine that slows down does so for all contenders.

    The order of the contenders is drawn again for each scenario of each round; the same seed gives the same order.
    """
    found: list[Step] = []
    for number in range(scale.rounds):
        for scenario in scale.scenarios:
            for database in scale.databases if scenario in ON_EVERY_DATABASE else scale.databases[:1]:
                contenders = [contender for contender in scale.contenders if (scenario, contender) not in LEFT_OUT]
                random.Random(f"{scale.seed}/{number}/{scenario}/{database}").shuffle(contenders)  # noqa: S311
                groups = [tuple(contenders)] if scenario in SIMULTANEOUS else [(one,) for one in contenders]
                found += [
                    Step(round=number, scenario=scenario, database=database, contenders=group)
                    for group in groups
                    if group
                ]
    return found


def left_out(scale: Scale) -> list[str]:
    """Return a sentence for each contender that a scenario leaves out, with the reason."""
    return list(
        dict.fromkeys(
            reason.format(scenario=scenario)
            for (scenario, contender), reason in LEFT_OUT.items()
            if scenario in scale.scenarios and contender in scale.contenders
        )
    )
