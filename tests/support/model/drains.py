"""Drains in the model: take, write, confirm, acknowledge."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from tests.support.model.callers import Callers
from tests.support.model.decisions import age, forgotten, too_old
from tests.support.model.explorer import Step
from tests.support.model.fixes import Fix
from tests.support.model.ledgers import Ledgers
from tests.support.model.rules import Rules
from tests.support.model.streams import Streams
from tests.support.model.world import Done, Drain, Effect, Entry, Fault, World, with_item
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.ledger_row import receipt_for

MOST_IN_HAND = 2


class Drains:
    """All drains. A batch is written entry by entry: what is in one transaction for the product is more ways here."""

    def __init__(self, rules: Rules, streams: Streams, ledgers: Ledgers, callers: Callers) -> None:
        self._rules = rules
        self._fixes = rules.fixes
        self._streams = streams
        self._ledgers = ledgers
        self._callers = callers

    def steps(self, world: World) -> Iterator[Step[World]]:
        """What each drain may do next."""
        for number, drain in enumerate(world.drains):
            if drain is None:
                yield from self._start(world, number)
                continue
            if spent := world.spending(Fault.DRAIN_CRASHES):
                yield Step(f"drain {number} crashes", spent.with_drain(number, None))
            yield from self._take(world, number, drain)
            for entry in self._writable(drain):
                yield from self._write(world, number, drain, entry)
            for done in drain.done:
                yield from self._confirm(world, number, drain, done)
                yield from self._acknowledge(world, number, drain, done)

    def _start(self, world: World, number: int) -> Iterator[Step[World]]:
        stream, sink = self._rules.scenario.drains[number]
        if Fix.QUEUE_HAS_ONE_SINK in self._fixes and world.contract != self._rules.scenario.sinks[sink]:
            return
        starting: World | None = world
        if any(
            world.drains[other] is not None
            for other, (of_stream, _sink) in enumerate(self._rules.scenario.drains)
            if of_stream == stream
        ):
            starting = world.spending(Fault.SECOND_DRAIN)
        elif (stream, sink) in self._rules.scenario.drains[:number]:
            return  # the same as if the first of them started
        if starting is not None:
            drain = Drain(recovering=Fix.RECOVERY in self._fixes)
            yield Step(f"drain {number} starts", starting.with_drain(number, drain))

    def _take(self, world: World, number: int, drain: Drain) -> Iterator[Step[World]]:
        if len(drain.hand) == MOST_IN_HAND or (found := self._next(world, number, drain)) is None:
            return
        entry, drain = found
        name = f"drain {number} takes {self._rules.name_of(entry)}"
        if not self._reads_by_position:
            stream = entry.stream
            newest = max(world.delivered[stream], entry.number)
            world = world._replace(delivered=with_item(world.delivered, stream, newest))
            drain = drain._replace(position=entry.number)
        entry = entry._replace(latest=True)  # the marker is of no interest from here on
        if self._is_too_old(world, entry):
            yield self._refuse_old(world, number, drain, entry)
            return
        if Fix.COMMIT_BEFORE_ACKNOWLEDGE not in self._fixes:
            world = self._streams.acknowledged(world, entry, rejected=False)
        yield Step(name, world.with_drain(number, drain._replace(hand=(*drain.hand, entry))))

    @property
    def _reads_by_position(self) -> bool:
        return Fix.READ_BY_POSITION in self._fixes and Fix.RECOVERY in self._fixes

    def _next(self, world: World, number: int, drain: Drain) -> tuple[Entry, Drain] | None:
        """The next entry that a drain reads, and the drain then."""
        stream, _sink = self._rules.scenario.drains[number]
        in_flight = {entry.number for entry in drain.hand} | {done.entry.number for done in drain.done}
        there = [entry for entry in world.stream if entry.stream == stream and entry.number not in in_flight]
        if not self._reads_by_position:
            delivered = world.delivered[stream]
            before = [entry for entry in there if drain.position < entry.number <= delivered]
            if drain.recovering and before:
                return before[0], drain
            there = [entry for entry in there if entry.number > delivered]
            drain = drain._replace(recovering=False)
        return (there[0], drain) if there else None

    def _is_too_old(self, world: World, entry: Entry) -> bool:
        return Fix.OLD_ENTRIES_REFUSED in self._fixes and too_old(self._age(world, entry))

    def _age(self, world: World, entry: Entry) -> timedelta:
        return age(
            first_day=entry.first,
            asked_day=world.calls[entry.call].began if Fix.AGE_FROM_ASKED in self._fixes else None,
            redis_day=world.redis_day,
            own_day=world.day + world.clocks.drain if Fix.AGE_BY_LATER_CLOCK in self._fixes else world.redis_day,
        )

    def _refuse_old(self, world: World, number: int, drain: Drain, entry: Entry) -> Step[World]:
        name = f"drain {number} refuses {self._rules.name_of(entry)} for its age"
        request = self._rules.request_of(entry)
        if forgotten(self._age(world, entry)) and Fix.FORGOTTEN_NOT_TOLD in self._fixes:
            return Step(name, self._dropped(world, number, drain, entry, receipt_for(request, Outcome.REJECTED)))
        world, receipt = self._refused(world, number, entry, request)
        return Step(name, self._decided(_with_refusal(world, entry), number, drain, entry, receipt))

    def _reject_undecoded(self, world: World, number: int, drain: Drain, entry: Entry) -> Step[World]:
        name = f"drain {number}: {self._rules.name_of(entry)} cannot be decoded now, an operator rejects it"
        request = replace(self._rules.request_of(entry), table="", record={}, record_hash="")
        world, receipt = self._refused(world, number, entry, request)
        world = _with_refusal(world, entry)
        if Fix.UNDECODED_NOT_TOLD in self._fixes:
            return Step(name, self._dropped(world, number, drain, entry, receipt))
        return Step(name, self._decided(world, number, drain, entry, receipt))

    def _refused(self, world: World, number: int, entry: Entry, request: WriteRequest) -> tuple[World, WriteReceipt]:
        """Reject a request through the ledger, without an attempt to write it."""
        _stream, sink = self._rules.scenario.drains[number]
        if known := self._ledgers.answer(world, sink, entry.call, request):
            return world, known
        world = self._ledgers.decide(world, sink, entry.call, request, Outcome.REJECTED)
        return world, receipt_for(request, Outcome.REJECTED)

    def _dropped(self, world: World, number: int, drain: Drain, entry: Entry, receipt: WriteReceipt) -> World:
        """The world where an entry becomes a dead letter, and nobody is told."""
        return self._decided(world._replace(forgot=True), number, drain, entry, receipt, confirmed=True)

    def _writable(self, drain: Drain) -> Iterator[Entry]:
        """Any entry in hand, because any may be held; but those of one key in order."""
        for index, entry in enumerate(drain.hand):
            before = (self._key(other) for other in drain.hand[:index])
            if Fix.FOLLOWERS_WAIT not in self._fixes or self._key(entry) not in before:
                yield entry

    def _key(self, entry: Entry) -> str:
        return self._rules.scenario.calls[entry.call].key

    def _write(self, world: World, number: int, drain: Drain, entry: Entry) -> Iterator[Step[World]]:
        _stream, sink = self._rules.scenario.drains[number]
        request = self._rules.request_of(entry)
        name = f"drain {number}: {self._rules.name_of(entry)}"
        if Fix.AGE_AT_WRITE in self._fixes and self._is_too_old(world, entry):
            yield self._refuse_old(world, number, drain, entry)
            return
        if spent := world.spending(Fault.CODEC_AWAY):
            yield self._reject_undecoded(spent, number, drain, entry)
        receipt = self._ledgers.answer(world, sink, entry.call, request)
        if receipt is not None and Fix.LEDGER_DECIDES in self._fixes:
            yield Step(
                f"{name} is decided already: {receipt.outcome}", self._decided(world, number, drain, entry, receipt)
            )
            return
        written = self._ledgers.decide(world, sink, entry.call, request, Outcome.WRITTEN)
        written = written._replace(
            effects=(*written.effects, Effect(sink, entry.call, entry.number, entry.appended, world.day))
        )
        receipt = receipt_for(request, Outcome.WRITTEN)
        yield Step(f"{name} is written", self._decided(written, number, drain, entry, receipt))
        if spent := world.spending(Fault.TARGET_REFUSES):
            refused = _with_refusal(self._ledgers.decide(spent, sink, entry.call, request, Outcome.REJECTED), entry)
            receipt = receipt_for(request, Outcome.REJECTED)
            yield Step(f"{name} is refused by the target", self._decided(refused, number, drain, entry, receipt))

    def _decided(
        self, world: World, number: int, drain: Drain, entry: Entry, receipt: WriteReceipt, *, confirmed: bool = False
    ) -> World:
        hand = tuple(one for one in drain.hand if one.number != entry.number)
        done = tuple(sorted((*drain.done, Done(entry, receipt, confirmed)), key=_number))
        return world.with_drain(number, drain._replace(hand=hand, done=done))

    def _confirm(self, world: World, number: int, drain: Drain, done: Done) -> Iterator[Step[World]]:
        if done.confirmed:
            return
        name = self._rules.name_of(done.entry)
        confirmed = self._callers.confirm(world, done.entry.call, done.receipt)
        now = _with_done(drain, done, done._replace(confirmed=True))
        yield Step(f"drain {number} confirms {name}: {done.receipt.outcome}", confirmed.with_drain(number, now))
        if spent := world.spending(Fault.CALLER_UNREACHABLE):
            left = _with_done(drain, done, None)._replace(recovering=True, position=0)
            yield Step(f"drain {number} cannot confirm {name}, leaves it pending", spent.with_drain(number, left))

    def _acknowledge(self, world: World, number: int, drain: Drain, done: Done) -> Iterator[Step[World]]:
        if done.acknowledged or (not done.confirmed and Fix.CONFIRM_BEFORE_ACKNOWLEDGE in self._fixes):
            return
        rejected = done.receipt.outcome is Outcome.REJECTED
        removed = self._streams.acknowledged(world, done.entry, rejected=rejected)
        now = _with_done(drain, done, None if done.confirmed else done._replace(acknowledged=True))
        yield Step(f"drain {number} acknowledges {self._rules.name_of(done.entry)}", removed.with_drain(number, now))


def _with_refusal(world: World, entry: Entry) -> World:
    return world._replace(refusals=tuple(sorted({*world.refusals, entry.call})))


def _with_done(drain: Drain, done: Done, changed: Done | None) -> Drain:
    rest = tuple(one for one in drain.done if one is not done)
    return drain._replace(done=rest if changed is None else tuple(sorted((*rest, changed), key=_number)))


def _number(done: Done) -> int:
    return done.entry.number
