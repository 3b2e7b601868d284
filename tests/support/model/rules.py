"""What is fixed during one exploration: the scenario, the fixes that are in, and the requests of the callers."""

from dataclasses import dataclass, replace

from tests.support.model.fixes import Fix
from tests.support.model.world import Call, CallState, Entry, Fault, Phase, World
from write_batcher.models import ReplyAddress, WriteRequest
from write_batcher.queue.record_encoding import with_hash


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """A small world, and how much may go wrong in it."""

    name: str
    calls: tuple[Call, ...]
    faults: dict[Fault, int]
    drains: tuple[tuple[int, int], ...] = ((0, 0),)
    """Stream and sink of each drain that may run; two of one stream at once only by `Fault.SECOND_DRAIN`."""
    sinks: tuple[str, ...] = ("A",)
    days: tuple[float, ...] = ()
    """The days, after day 0, on which something may happen."""

    def initial(self) -> World:
        """The world before anything has happened."""
        return World(
            calls=tuple(
                CallState(phase=Phase.NEW if self.days or call.after is not None else Phase.APPENDING)
                for call in self.calls
            ),
            faults=tuple(self.faults.get(fault, 0) for fault in Fault),
            drains=tuple(None for _ in self.drains),
            ledgers=tuple(() for _ in self.sinks),
            contract=self.sinks[0],
        )


class Rules:
    """A scenario with the fixes that are in."""

    def __init__(self, scenario: Scenario, fixes: frozenset[Fix]) -> None:
        self.scenario = scenario
        self.fixes = fixes
        self._requests = tuple(self._request(number) for number in range(len(scenario.calls)))
        self._by_entry: dict[tuple[int, bool, bool], WriteRequest] = {}

    def request(self, call: int) -> WriteRequest:
        """The request of a call as it is submitted."""
        return self._requests[call]

    def request_of(self, entry: Entry) -> WriteRequest:
        """The request of an entry as a drain decodes it."""
        known = entry.call, entry.replayed, entry.other_attempt
        if known not in self._by_entry:
            self._by_entry[known] = self._decoded(entry)
        return self._by_entry[known]

    def queue_of(self, call: int) -> str:
        """The name of the queue that a call submits to."""
        return f"queue-{self.scenario.calls[call].queue}"

    def name_of(self, entry: Entry) -> str:
        """An entry in words."""
        return f"entry {entry.number} of {self.scenario.calls[entry.call].name}"

    def _request(self, number: int) -> WriteRequest:
        call = self.scenario.calls[number]
        reply = ReplyAddress(
            workflow_id=call.workflow,
            run_id="",
            attempt=f"attempt of {self._attempt_of(number)}",
            mode=call.mode,
            awaits_replay=call.waits_for_replay,
        )
        request = WriteRequest(
            request_id=call.request_id,
            key=call.key,
            table="orders",
            record={"value": call.record},
            reply=reply,
            asked_ms=number,  # later calls have asked later
        )
        return with_hash(request)

    def _attempt_of(self, number: int) -> str:
        call = self.scenario.calls[number]
        if Fix.ATTEMPT_OF_ONE_CALL not in self.fixes and call.same_run and call.after is not None:
            return self._attempt_of(call.after)
        return call.name

    def _decoded(self, entry: Entry) -> WriteRequest:
        request = replace(self._requests[entry.call], replayed=entry.replayed)
        assert request.reply is not None
        if entry.other_attempt:
            later = (request.asked_ms or 0) + len(self._requests)
            reply = replace(request.reply, attempt=f"second {request.reply.attempt}")
            request = replace(request, reply=reply, asked_ms=later)
        return request
