"""The streams of a Redis in the model, as the product's scripts keep them."""

from tests.support.model.fixes import Fix
from tests.support.model.rules import Rules
from tests.support.model.world import Entry, World


class Streams:
    """What append, acknowledge, dead letter and replay do; `test_model_streams.py` holds it against the scripts."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def appended(self, world: World, call: int, *, other_attempt: bool = False) -> World:
        """Append the request of a call, unless it has an entry in the stream."""
        stream = self._rules.scenario.calls[call].queue
        if not world.calls[call].appended:
            world = world.with_call(call, appended=True)
        if any(entry.latest and entry.call == call for entry in world.stream):
            return world
        return self._added(
            world,
            Entry(
                number=world.next_number,
                call=call,
                first=world.redis_day,
                appended=world.day,
                stream=stream,
                other_attempt=other_attempt,
            ),
        )

    def acknowledged(self, world: World, entry: Entry, *, rejected: bool) -> World:
        """Remove an entry if it is still there; one that is rejected becomes a dead letter."""
        left = tuple(one for one in world.stream if one.number != entry.number)
        if len(left) == len(world.stream):
            return world
        letters = (*world.letters, entry._replace(latest=True)) if rejected else world.letters
        return world._replace(stream=left, letters=letters)

    def replayed(self, world: World, letter: Entry) -> World:
        """Move a dead letter back into its stream."""
        world = world._replace(letters=tuple(one for one in world.letters if one != letter))
        first = letter.first if Fix.REPLAY_KEEPS_AGE in self._rules.fixes else world.redis_day
        return self._added(world, letter._replace(number=world.next_number, replayed=True, first=first))

    def _added(self, world: World, entry: Entry) -> World:
        others = tuple(
            one._replace(latest=False) if (one.stream, one.call) == (entry.stream, entry.call) else one
            for one in world.stream
        )
        return world._replace(stream=(*others, entry), next_number=world.next_number + 1)
