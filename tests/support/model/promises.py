"""What must hold in every state: the guarantees that the model checks."""

from tests.support.model.decisions import WINDOW
from tests.support.model.protocol import Protocol
from tests.support.model.world import Drain, Effect, Entry, Phase, Told, World
from write_batcher.models import Outcome

WRITTEN_TWICE = "written twice"
TOLD_FALSELY = "told falsely"
OUT_OF_ORDER = "out of order"
LOST = "lost"
STRANDED = "stranded"
STUCK = "stuck"
NOT_WRITTEN = (Told.REJECTED, Told.NOT_SUBMITTED, Told.NOT_CONFIRMED)


class Promises:
    """The guarantees of one protocol in one scenario."""

    def __init__(self, protocol: Protocol) -> None:
        self._calls = protocol.rules.scenario.calls
        self._rules = protocol.rules
        self._ledgers = protocol.ledgers

    def broken(self, world: World) -> str | None:
        """Return in words what this state breaks; None when it keeps all promises."""
        return (
            self._written_twice(world)
            or self._told_falsely(world)
            or self._out_of_order(world)
            or self._lost(world)
            or self._stranded(world)
            or self._stuck(world)
        )

    def _written_twice(self, world: World) -> str | None:
        """Guarantee 1: exactly-once effect, within the deduplication window."""
        for index, effect in enumerate(world.effects):
            call = self._calls[effect.call]
            for earlier in world.effects[:index]:
                other = self._calls[earlier.call]
                same_id = (call.queue, call.request_id) == (other.queue, other.request_id)
                in_window = effect.appended <= earlier.day + WINDOW.days
                if same_id and (in_window or call is other):
                    return f"{WRITTEN_TWICE}: request id {call.request_id!r}"
        return None

    def _told_falsely(self, world: World) -> str | None:
        """Guarantee 3: what a caller is told is true, of its record, and stays true."""
        for number, state in enumerate(world.calls):
            call = self._calls[number]
            for told in state.told:
                if told is Told.WRITTEN and not any(self._is_record_of(effect, number) for effect in world.effects):
                    return f"{TOLD_FALSELY}: {call.name} is told {told}, and {call.record!r} is not written"
                if told in NOT_WRITTEN and any(self._is_by(effect, number) for effect in world.effects):
                    return f"{TOLD_FALSELY}: {call.name} is told {told}, and {call.record!r} is written"
                if told is Told.REJECTED and not self._has_reason(world, number):
                    return f"{TOLD_FALSELY}: {call.name} is told {told}, and nothing has refused {call.record!r}"
                if told is Told.QUEUED and self._is_undone(world, number):
                    return f"{TOLD_FALSELY}: {call.name} is told {told}, and an earlier call withdraws it"
        return None

    def _is_record_of(self, effect: Effect, number: int) -> bool:
        """Whether an effect is the record of a call, whoever's write it was."""
        call, other = self._calls[number], self._calls[effect.call]
        return (call.queue, call.request_id, call.record) == (other.queue, other.request_id, other.record)

    def _is_by(self, effect: Effect, number: int) -> bool:
        """Whether an effect is the record of a call, written for that call or for an earlier one of its workflow."""
        same_workflow = self._calls[effect.call].workflow == self._calls[number].workflow
        return same_workflow and effect.call <= number and self._is_record_of(effect, number)

    def _has_reason(self, world: World, number: int) -> bool:
        """Whether a record like this call's was refused, or its request id is another record's."""
        call = self._calls[number]
        return any(
            self._calls[refused].record == call.record and self._calls[refused].request_id == call.request_id
            for refused in world.refusals
        ) or any(
            (call.queue, call.request_id) == (self._calls[effect.call].queue, self._calls[effect.call].request_id)
            and call.record != self._calls[effect.call].record
            for effect in world.effects
        )

    def _is_undone(self, world: World, number: int) -> bool:
        """Whether a drain is told `withdrawn` of a call although neither that call nor a later one has settled."""
        later = [state for state in world.calls[number:] if set(state.told) - {Told.QUEUED, Told.WRITTEN}]
        return not later and any(
            done.entry.call == number and done.receipt.outcome is Outcome.WITHDRAWN
            for drain in world.drains
            if drain
            for done in drain.done
        )

    def _out_of_order(self, world: World) -> str | None:
        """Guarantee 8: requests with the same key are written in the order of their append."""
        latest: dict[tuple[int, str], int] = {}
        for effect in world.effects:
            call = self._calls[effect.call]
            if latest.get((call.queue, call.key), 0) > effect.number:
                return f"{OUT_OF_ORDER}: key {call.key!r}"
            latest[call.queue, call.key] = effect.number
        return None

    def _lost(self, world: World) -> str | None:
        """Guarantee 2: what was appended is queued, decided, or a dead letter."""
        if world.forgot or world.day:
            return None
        for number, state in enumerate(world.calls):
            if state.appended and not self._is_kept(world, number) and not self._is_decided(world, number):
                return f"{LOST}: the entry of {self._calls[number].name} is acknowledged, and decided nowhere"
        return None

    def _is_kept(self, world: World, number: int) -> bool:
        return any(entry.call == number for entry in (*world.stream, *world.letters)) or any(
            done.entry.call == number for drain in world.drains if drain for done in drain.done
        )

    def _is_decided(self, world: World, number: int) -> bool:
        request = self._rules.request(number)
        return any(effect.call == number for effect in world.effects) or any(
            self._ledgers.answer(world, sink, number, request) for sink in range(len(world.ledgers))
        )

    def _stranded(self, world: World) -> str | None:
        """Guarantee 2: a caller that waits is confirmed before its entry is acknowledged."""
        if world.forgot:
            return None
        for number, state in enumerate(world.calls):
            if state.phase is not Phase.WAITING or state.told:
                continue
            on_its_way = any(entry.call == number for entry in world.stream) or any(
                done.entry.call == number for drain in world.drains if drain for done in drain.done
            )
            if not on_its_way:
                return f"{STRANDED}: {self._calls[number].name} waits for a receipt that nobody will send"
        return None

    def _stuck(self, world: World) -> str | None:
        """Guarantee 2: an entry that is queued will be taken."""
        for entry in world.stream:
            drains = [
                drain
                for drain, (stream, _sink) in zip(world.drains, self._rules.scenario.drains, strict=True)
                if drain is not None and stream == entry.stream
            ]
            if (
                entry.number <= world.delivered[entry.stream]
                and drains
                and not any(_will_take(one, entry) for one in drains)
            ):
                return f"{STUCK}: {self._rules.name_of(entry)} is queued, and no drain will take it"
        return None


def _will_take(drain: Drain, entry: Entry) -> bool:
    in_flight = (*drain.hand, *(done.entry for done in drain.done))
    return drain.recovering or any(one.number == entry.number for one in in_flight)
