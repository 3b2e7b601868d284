"""What a comparison runs: how much, how often, and in which order."""

import random
from dataclasses import dataclass
from datetime import timedelta

from write_batcher.compare.results import Contender, Scenario
from write_batcher.workers.embedded.local_stack import Database

TOGETHER = frozenset({Scenario.IDLE})
"""Scenarios that all contenders go through at the same time: counts that no noise disturbs."""

ON_EVERY_DATABASE = frozenset({Scenario.LOAD})
"""The others show what a design does, not what a database does, and run on the first one."""

NO_BATCHER = "{scenario} leaves out direct: it has no batcher"
SAME_AS_QUEUE = "{scenario} leaves out queue-completion: without callers to confirm to it is the same as queue"
LEFT_OUT = {
    (Scenario.GROWTH, Contender.DIRECT): NO_BATCHER,
    (Scenario.CEILING, Contender.DIRECT): NO_BATCHER,
    (Scenario.GROWTH, Contender.QUEUE_COMPLETION): SAME_AS_QUEUE,
    (Scenario.CEILING, Contender.QUEUE_COMPLETION): SAME_AS_QUEUE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much. `requests` are pushed straight at a batcher in `growth` and `ceiling`; `connection_limit` is that of an
    embedded PostgreSQL.
    """

    scenarios: tuple[Scenario, ...] = tuple(Scenario)
    contenders: tuple[Contender, ...] = tuple(Contender)
    databases: tuple[Database, ...] = ("sqlite", "postgresql")
    workflows: int = 300
    requests: int = 12_000
    rounds: int = 1
    seed: int = 0
    max_items: int = 100
    max_wait: timedelta = timedelta(seconds=2)
    idle: timedelta = timedelta(seconds=60)
    connection_limit: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Contenders that are measured at the same time: one, but for the scenarios of TOGETHER."""

    round: int
    scenario: Scenario
    database: Database
    contenders: tuple[Contender, ...]

    def __str__(self) -> str:
        return f"{self.scenario} on {self.database}, {' and '.join(self.contenders)}"


def steps(scale: Scale) -> list[Step]:
    """Round after round, so that a machine that becomes slower does so for all; the order of the contenders is drawn
    anew for each scenario of each round, the same for the same seed.
    """
    found: list[Step] = []
    for number in range(scale.rounds):
        for scenario in scale.scenarios:
            for database in scale.databases if scenario in ON_EVERY_DATABASE else scale.databases[:1]:
                contenders = [one for one in scale.contenders if (scenario, one) not in LEFT_OUT]
                random.Random(f"{scale.seed}/{number}/{scenario}/{database}").shuffle(contenders)  # noqa: S311
                groups = [tuple(contenders)] if scenario in TOGETHER else [(one,) for one in contenders]
                found += [
                    Step(round=number, scenario=scenario, database=database, contenders=group)
                    for group in groups
                    if group
                ]
    return found


def left_out(scale: Scale) -> list[str]:
    """Which contenders some scenarios leave out, and why."""
    return [
        reason.format(scenario=scenario)
        for (scenario, contender), reason in LEFT_OUT.items()
        if scenario in scale.scenarios and contender in scale.contenders
    ]
