"""The ledgers in the model: they keep rows, ask the product what a row decides, and forget."""

from collections.abc import Iterator
from dataclasses import replace

from tests.support.model.decisions import DAY, WINDOW, Row, expires
from tests.support.model.explorer import Step
from tests.support.model.fixes import Fix
from tests.support.model.rules import Rules
from tests.support.model.world import Fault, World, with_item
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.ledger_row import Decision, LedgerRow, decided, receipt_for, settled

FOREIGN_WINDOW_DAYS = 13 / 24 / 60  # of the batcher of another queue in the same database


class Ledgers:
    """Transactions of the sinks: each is one step."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._fixes = rules.fixes

    def answer(self, world: World, sink: int, call: int, request: WriteRequest) -> WriteReceipt | None:
        """What the ledger decides about a request; None when it may be written."""
        found = self._row(world, sink, call)
        if found is None:
            return None
        row = found.row
        if row.outcome is Outcome.WRITTEN and Fix.LEDGER_COMPARES not in self._fixes:
            return receipt_for(request, Outcome.DUPLICATE)
        if row.outcome is Outcome.REJECTED and Fix.REJECTION_BINDS_NO_LATER_CALL not in self._fixes:
            return receipt_for(request, Outcome.REJECTED)
        if decisions := [one for one in row.decisions if self._counts(one, request)]:
            row = replace(row, decisions=tuple(decisions))
        elif row.decisions:
            return None
        return row.answer(request)

    def decide(self, world: World, sink: int, call: int, request: WriteRequest, outcome: Outcome) -> World:
        """The world after a request that nothing decides about gets `outcome`."""
        found = self._row(world, sink, call)
        row = decided(request, outcome, queue=self._queue(call), earlier=found.row if found else None)
        return self._stored(world, sink, row, found)

    def settle(self, world: World, sink: int, call: int) -> tuple[World, WriteReceipt]:
        """Withdraw a call's request, or learn its outcome."""
        request = self._rules.request(call)
        if Fix.ASKED_AT_SUBMIT not in self._fixes:
            request = replace(request, asked_ms=(request.asked_ms or 0) + len(self._rules.scenario.calls))
        withdrawn = receipt_for(request, Outcome.WITHDRAWN)
        if Fix.SETTLE_IN_LEDGER not in self._fixes:
            return world, withdrawn
        receipt = self.answer(world, sink, call, request)
        if receipt is None:
            return self.decide(world, sink, call, request, Outcome.WITHDRAWN), withdrawn
        found = self._row(world, sink, call)
        if found is not None and Fix.SETTLED_IS_FINAL in self._fixes:
            row, _receipt = settled(request, Outcome.WITHDRAWN, earlier=found.row)
            world = self._stored(world, sink, row, found) if row else world
        return world, receipt

    def steps(self, world: World) -> Iterator[Step[World]]:
        """What happens to the ledgers without any caller or drain."""
        if self._rules.scenario.days:
            for sink in range(len(world.ledgers)):
                yield from self._prune(world, sink)
        if (
            world.effects
            and Fix.COMMITS_ARE_DURABLE not in self._fixes
            and (spent := world.spending(Fault.DATABASE_CRASHES))
        ):
            *effects, lost = world.effects
            row = self._row(world, lost.sink, lost.call)
            kept = tuple(one for one in world.ledgers[lost.sink] if one is not row)
            yield Step(
                "the database crashes and has lost its last commit",
                spent._replace(effects=tuple(effects), ledgers=with_item(world.ledgers, lost.sink, kept)),
            )

    def _prune(self, world: World, sink: int) -> Iterator[Step[World]]:
        rows = world.ledgers[sink]
        clocks = [world.day + world.clocks.database]
        if Fix.TWO_CLOCKS in self._fixes:
            clocks.append(world.redis_day)
        kept = tuple(row for row in rows if any(row.expires >= now for now in clocks))
        if kept != rows:
            yield Step("the ledger is pruned", world._replace(ledgers=with_item(world.ledgers, sink, kept)))
        if Fix.ROW_CARRIES_EXPIRY not in self._fixes:
            kept = tuple(row for row in rows if row.expires - expires(0) >= world.day - FOREIGN_WINDOW_DAYS)
            if kept != rows:
                yield Step(
                    "another queue's batcher prunes the ledger",
                    world._replace(ledgers=with_item(world.ledgers, sink, kept)),
                )

    def _row(self, world: World, sink: int, call: int) -> Row | None:
        key = self._queue(call), self._rules.scenario.calls[call].request_id
        return next((one for one in world.ledgers[sink] if (one.row.queue, one.row.request_id) == key), None)

    def _queue(self, call: int) -> str:
        return self._rules.queue_of(call) if Fix.LEDGER_KEY_HAS_QUEUE in self._fixes else ""

    def _stored(self, world: World, sink: int, row: LedgerRow, found: Row | None) -> World:
        clocks = world.clocks
        ahead = max(clocks.database, clocks.drain) if Fix.LATEST_CLOCK in self._fixes else clocks.database
        day = world.day + ahead
        expiry = expires(day) if Fix.ROW_OUTLIVES_ENTRIES in self._fixes else day + WINDOW / DAY
        new = Row(row, max(expiry, found.expires) if found else expiry)
        rows = (*(one for one in world.ledgers[sink] if one is not found), new)
        in_order = sorted(rows, key=lambda one: (one.row.queue, one.row.request_id))
        return world._replace(ledgers=with_item(world.ledgers, sink, tuple(in_order)))

    def _counts(self, decision: Decision, request: WriteRequest) -> bool:
        if (
            request.replayed
            and decision.outcome is Outcome.WITHDRAWN
            and Fix.REPLAY_OBEYS_WITHDRAWAL not in self._fixes
        ):
            return False
        return decision.is_about(request) or Fix.WITHDRAWAL_BINDS_EARLIER in self._fixes
