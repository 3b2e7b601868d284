"""Callers in the model: what a call of `BatchedWrites.submit` does, and what may happen to it."""

from collections.abc import Iterator

from tests.support.model.decisions import DAY, accepts, is_refusal, too_old
from tests.support.model.explorer import Step
from tests.support.model.fixes import Fix
from tests.support.model.ledgers import Ledgers
from tests.support.model.rules import Rules
from tests.support.model.streams import Streams
from tests.support.model.world import AWAITING_RECEIPT, ENDED, Entry, Fault, Phase, Told, World
from write_batcher.models import ConfirmBy, Outcome, WriteReceipt

OF_CALLS_ONLY = (
    Fault.ANSWER_LOST,
    Fault.REFUSED_FOR_GOOD,
    Fault.SUBMIT_TIMES_OUT,
    Fault.RESUBMITTED,
    Fault.CONFIRM_TIMES_OUT,
    Fault.CANCELLED,
    Fault.RUN_ENDS,
)


class Callers:
    """All calls of all workflows."""

    def __init__(self, rules: Rules, streams: Streams, ledgers: Ledgers) -> None:
        self._rules = rules
        self._fixes = rules.fixes
        self._streams = streams
        self._ledgers = ledgers

    def steps(self, world: World) -> Iterator[Step[World]]:
        """What each caller may do next."""
        for number, state in enumerate(world.calls):
            name = self._rules.scenario.calls[number].name
            for action, after in self._actions(world, number):
                yield Step(f"{name}: {action}", after)
            if state.late:
                after = self._streams.appended(world.with_call(number, late=False), number)
                yield Step(f"{name}: the attempt that had timed out appends", after)
            if state.settles_late:
                after, receipt = self._ledgers.settle(world.with_call(number, settles_late=False), 0, number)
                yield Step(f"{name}: the settling of the ended run is carried out: {receipt.outcome}", after)
            if state.phase not in (Phase.NEW, *ENDED) and (spent := world.spending(Fault.RUN_ENDS)):
                after = spent.with_call(
                    number,
                    phase=Phase.ENDED,
                    late=state.late or state.phase is Phase.APPENDING,
                    settles_late=state.phase is Phase.SETTLING,
                )
                yield Step(f"{name}: its run is ended", _without_idle_faults(after))

    def confirm(self, world: World, sender: int, receipt: WriteReceipt) -> World:
        """Send a receipt to the caller of an entry: to its activity, or as a signal to any run of its workflow."""
        reply_to = self._rules.scenario.calls[sender]
        for number, call in enumerate(self._rules.scenario.calls):
            if reply_to.mode is ConfirmBy.COMPLETION:
                reached = number == sender
            else:
                reached = (call.workflow, call.queue, call.mode) == (
                    reply_to.workflow,
                    reply_to.queue,
                    ConfirmBy.SIGNAL,
                )
            if reached and self._takes(receipt, number, world.calls[number].phase):
                settled = world.calls[number].phase is Phase.SETTLING
                world = self._received(world, number, receipt, settled=settled)
        return world

    def discard(self, world: World, letter: Entry) -> World:
        """Tell a caller that waits for a replay that there will be none."""
        if world.calls[letter.call].phase not in AWAITING_RECEIPT:
            return world
        if Fix.DISCARD_IS_SETTLED in self._fixes:
            return world.with_call(letter.call, phase=Phase.SETTLING)
        return _told(world, letter.call, Told.NOT_CONFIRMED)

    def _actions(self, world: World, number: int) -> Iterator[tuple[str, World]]:
        match world.calls[number].phase:
            case Phase.NEW:
                call = self._rules.scenario.calls[number]
                if self._may_begin(world, number):
                    # Nothing is certain for a run that is not the first: another one may have appended before it.
                    later_run = call.after is not None and not call.same_run
                    begun = world.with_call(number, phase=Phase.APPENDING, began=world.day, uncertain=later_run)
                    yield f"submits {call.record!r} as {call.request_id!r}", begun
            case Phase.APPENDING:
                yield from self._appending(world, number)
            case Phase.WAITING:
                yield from self._waiting(world, number)
            case Phase.WAITING_FOR_REPLAY:
                yield from self._waiting_for_replay(world, number)
            case Phase.SETTLING:
                yield from self._settling(world, number)
            case Phase.TOLD:
                if spent := world.spending(Fault.RESET_BEHIND_SUBMIT):
                    yield "is reset to a moment behind its submit", spent.with_call(number, phase=Phase.WAITING)

    def _may_begin(self, world: World, number: int) -> bool:
        call = self._rules.scenario.calls[number]
        if call.after is None:
            return True
        before = world.calls[call.after].phase
        return before is Phase.TOLD if call.same_run else before in ENDED

    def _appending(self, world: World, number: int) -> Iterator[tuple[str, World]]:
        after = self._streams.appended(world, number)
        if self._rules.scenario.calls[number].mode is ConfirmBy.NONE:
            yield "appends", _told(after, number, Told.QUEUED)
        else:
            yield "appends", after.with_call(number, phase=Phase.WAITING)
        if spent := world.spending(Fault.ANSWER_LOST):
            yield "appends, the answer is lost", self._streams.appended(spent, number).with_call(number, uncertain=True)
        if spent := world.spending(Fault.RUNS_LATE):
            yield "an attempt to append times out", spent.with_call(number, uncertain=True, late=True)
        if spent := world.spending(Fault.REFUSED_FOR_GOOD):
            if world.calls[number].uncertain and Fix.CERTAIN_AT_FIRST_ONLY in self._fixes:
                yield "is refused for good, settles", spent.with_call(number, phase=Phase.SETTLING)
            else:
                yield "is refused for good", _told(spent, number, Told.NOT_SUBMITTED)
        if spent := world.spending(Fault.SUBMIT_TIMES_OUT):
            yield "cannot append in time, settles", spent.with_call(number, phase=Phase.SETTLING, late=True)

    def _waiting(self, world: World, number: int) -> Iterator[tuple[str, World]]:
        if not self._is_forgotten(world, number) and (spent := world.spending(Fault.RESUBMITTED)):
            other = Fix.SAME_ATTEMPT not in self._fixes
            yield (
                "has no receipt after half of its time, appends again",
                self._streams.appended(spent, number, other_attempt=other),
            )
        if spent := world.spending(Fault.CONFIRM_TIMES_OUT):
            yield "has no receipt in time, settles", spent.with_call(number, phase=Phase.SETTLING)
        if spent := world.spending(Fault.CANCELLED):
            yield "is cancelled, settles", spent.with_call(number, phase=Phase.SETTLING)

    def _waiting_for_replay(self, world: World, number: int) -> Iterator[tuple[str, World]]:
        is_there = any(letter.call == number for letter in world.letters)
        if not is_there and not self._is_forgotten(world, number) and (spent := world.spending(Fault.RESUBMITTED)):
            yield "its dead letter is gone, appends again", self._streams.appended(spent, number)
        if spent := world.spending(Fault.CANCELLED):
            yield "is cancelled, settles", spent.with_call(number, phase=Phase.SETTLING)

    def _settling(self, world: World, number: int) -> Iterator[tuple[str, World]]:
        for sink, sink_id in enumerate(self._rules.scenario.sinks):
            serving = world.contract or self._rules.scenario.sinks[0]
            if Fix.QUEUE_HAS_ONE_SINK in self._fixes and serving != sink_id:
                continue
            settled, receipt = self._ledgers.settle(world, sink, number)
            after = self._answered(settled, number, receipt)
            where = f" at sink {sink_id}" if len(self._rules.scenario.sinks) > 1 else ""
            yield f"settles{where}: {receipt.outcome}", after
            if spent := world.spending(Fault.ANSWER_LOST):
                settled, receipt = self._ledgers.settle(spent, sink, number)
                yield f"settles{where}: {receipt.outcome}, the answer is lost", settled

    def _answered(self, world: World, number: int, receipt: WriteReceipt) -> World:
        """What a caller is told that has settled."""
        if receipt.outcome is Outcome.WITHDRAWN and self._is_forgotten(world, number):
            return _told(world, number, Told.UNKNOWN)
        return self._received(world, number, receipt, settled=True)

    def _is_forgotten(self, world: World, number: int) -> bool:
        """Whether a call began so long ago that nothing follows from the ledger's silence."""
        return too_old((world.day - world.calls[number].began) * DAY) and Fix.OLD_CALL_UNKNOWN in self._fixes

    def _received(self, world: World, number: int, receipt: WriteReceipt, *, settled: bool = False) -> World:
        match receipt.outcome:
            case Outcome.WRITTEN | Outcome.DUPLICATE:
                return _told(world, number, Told.WRITTEN)
            case Outcome.REJECTED if self._rules.scenario.calls[number].waits_for_replay and not settled:
                return world.with_call(number, phase=Phase.WAITING_FOR_REPLAY)
            case Outcome.REJECTED:
                return _told(world, number, Told.REJECTED)
            case _:
                return _told(world, number, Told.NOT_CONFIRMED)

    def _takes(self, receipt: WriteReceipt, number: int, phase: Phase) -> bool:
        """Whether a caller in this phase takes a receipt."""
        if phase is Phase.SETTLING:
            waits = self._rules.scenario.calls[number].waits_for_replay
            if waits and is_refusal(receipt.outcome) and Fix.SETTLING_ASKS_LEDGER in self._fixes:
                return False
        elif phase not in AWAITING_RECEIPT:
            return False
        return self._accepts(receipt, number)

    def _accepts(self, receipt: WriteReceipt, number: int) -> bool:
        request = self._rules.request(number)
        fix = Fix.REJECTION_NAMES_ATTEMPT if is_refusal(receipt.outcome) else Fix.RECEIPT_NAMES_RECORD
        if fix not in self._fixes:
            return receipt.request_id == request.request_id
        return accepts(receipt, request, self._rules.queue_of(number))


def _told(world: World, number: int, told: Told) -> World:
    before = world.calls[number].told
    return _without_idle_faults(
        world.with_call(number, phase=Phase.TOLD, told=before if told in before else (*before, told))
    )


def _without_idle_faults(world: World) -> World:
    """The world without the faults that nothing is left for: otherwise equal states then are one."""
    if world.faults[Fault.RESET_BEHIND_SUBMIT] or any(state.phase not in ENDED for state in world.calls):
        return world
    return world._replace(
        faults=tuple(0 if fault in OF_CALLS_ONLY else left for fault, left in zip(Fault, world.faults, strict=True))
    )
