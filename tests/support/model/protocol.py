"""The whole protocol: everything that may happen next in a modelled world."""

from collections.abc import Iterator

from tests.support.model import decisions
from tests.support.model.callers import Callers
from tests.support.model.drains import Drains
from tests.support.model.explorer import Step
from tests.support.model.fixes import Fix
from tests.support.model.ledgers import Ledgers
from tests.support.model.rules import Rules, Scenario
from tests.support.model.streams import Streams
from tests.support.model.world import Clocks, Entry, Fault, Phase, World
from write_batcher.models import ConfirmBy

CLOCK_JUMPS_BY_DAYS = (30, -30)


class Protocol:
    """The protocol with these fixes, in one scenario."""

    def __init__(self, scenario: Scenario, fixes: frozenset[Fix]) -> None:
        self.rules = Rules(scenario, fixes)
        self.streams = Streams(self.rules)
        self.ledgers = Ledgers(self.rules)
        self._callers = Callers(self.rules, self.streams, self.ledgers)
        self._drains = Drains(self.rules, self.streams, self.ledgers, self._callers)

    def steps(self, world: World) -> Iterator[Step[World]]:
        """Everything that may happen next."""
        yield from self._callers.steps(world)
        yield from self._drains.steps(world)
        yield from self.ledgers.steps(world)
        yield from self._operators(world)
        yield from self._time(world)
        yield from self._redis(world)

    def _operators(self, world: World) -> Iterator[Step[World]]:
        for letter in world.letters:
            name = self.rules.name_of(letter)
            if self._may_replay(world, letter) and (spent := world.spending(Fault.REPLAYED)):
                yield Step(f"an operator replays {name}", self.streams.replayed(spent, letter))
            if spent := world.spending(Fault.DISCARDED):
                left = tuple(one for one in world.letters if one != letter)
                discarded = self._callers.discard(spent._replace(letters=left, forgot=True), letter)
                yield Step(f"an operator discards {name}", discarded)

    def _may_replay(self, world: World, letter: Entry) -> bool:
        """Whether a replay takes a letter unless it is told to take all."""
        call = self.rules.scenario.calls[letter.call]
        waits = call.waits_for_replay and world.calls[letter.call].phase is not Phase.ENDED
        return waits or call.mode is ConfirmBy.NONE or Fix.REPLAY_OF_WAITING_ONLY not in self.rules.fixes

    def _time(self, world: World) -> Iterator[Step[World]]:
        later = next((day for day in self.rules.scenario.days if day > world.day), None)
        if later is not None:
            # A drain has an entry in hand for an hour at most, and no attempt of an activity is late by days.
            rested = world._replace(
                day=later,
                drains=tuple(None for _ in world.drains),
                calls=tuple(state._replace(late=False, settles_late=False) for state in world.calls),
            )
            yield Step(f"it is day {later}", rested)
            if spent := world.spending(Fault.FROZEN_FOR_DAYS):
                yield Step(f"everything that runs is frozen until day {later}", spent._replace(day=later))
        if any(world.clocks):
            yield Step("all clocks are right again", world._replace(clocks=Clocks()))
        elif spent := world.spending(Fault.CLOCK_JUMPS):
            for clock in Clocks._fields:
                for days in CLOCK_JUMPS_BY_DAYS:
                    jumped = spent._replace(clocks=Clocks(**{clock: days}))
                    yield Step(f"the clock of the {clock} jumps by {days} days", jumped)

    def _redis(self, world: World) -> Iterator[Step[World]]:
        if spent := world.spending(Fault.REDIS_FORGETS):
            yield Step(
                "Redis loses everything",
                spent._replace(
                    stream=(),
                    letters=(),
                    delivered=(0, 0),
                    contract=None,
                    forgot=True,
                ),
            )
        for sink in self.rules.scenario.sinks:
            if world.contract != sink and self._may_join(world, sink):
                yield Step(f"a batcher with sink {sink} announces itself", world._replace(contract=sink))

    def _may_join(self, world: World, sink: str) -> bool:
        if Fix.QUEUE_HAS_ONE_SINK not in self.rules.fixes:
            return True
        if Fix.SINK_KEPT_IN_TEMPORAL in self.rules.fixes and sink != self.rules.scenario.sinks[0]:
            return False
        return decisions.may_join(world.contract, sink)
