"""The protocol of callers, queue, drains and ledger in every interleaving of a small world, in memory.

The model asks the product itself for its pure decisions: what a ledger row decides, what a caller takes for its
receipt, when a row expires, which batcher may serve a queue. Each rule of the protocol is taken out in turn, and the
model must find what breaks; `--log-cli-level=INFO` shows the ways to it.
"""

import logging

import pytest

from tests.support.model import decisions, scenarios
from tests.support.model.explorer import Exploration, Step, explore
from tests.support.model.fixes import Fix
from tests.support.model.promises import LOST, OUT_OF_ORDER, STRANDED, STUCK, TOLD_FALSELY, WRITTEN_TWICE, Promises
from tests.support.model.protocol import Protocol
from tests.support.model.rules import Scenario
from write_batcher.sinks.sql.ledger_row import Decision

ALL_FIXES = frozenset(Fix)

logger = logging.getLogger(__name__)

WITHOUT: tuple[tuple[Fix, Scenario, str], ...] = (
    (Fix.LEDGER_DECIDES, scenarios.ORDER_OF_TWO_DRAINS, WRITTEN_TWICE),
    (Fix.LEDGER_COMPARES, scenarios.CONFLICT, TOLD_FALSELY),
    (Fix.LEDGER_KEY_HAS_QUEUE, scenarios.TWO_QUEUES, TOLD_FALSELY),
    (Fix.COMMITS_ARE_DURABLE, scenarios.TWO_DRAINS, TOLD_FALSELY),
    (Fix.SETTLE_IN_LEDGER, scenarios.ONE_CALLER, TOLD_FALSELY),
    (Fix.SETTLED_IS_FINAL, scenarios.FIRE_AND_FORGET, TOLD_FALSELY),
    (Fix.SETTLED_IS_FINAL, scenarios.REPLAY, TOLD_FALSELY),
    (Fix.WITHDRAWAL_BINDS_EARLIER, scenarios.SAME_RECORD, TOLD_FALSELY),
    (Fix.REJECTION_BINDS_NO_LATER_CALL, scenarios.CORRECTED, TOLD_FALSELY),
    (Fix.REPLAY_OBEYS_WITHDRAWAL, scenarios.REPLAY_AFTER_RESET, TOLD_FALSELY),
    (Fix.ROW_CARRIES_EXPIRY, scenarios.WINDOW, WRITTEN_TWICE),
    (Fix.ROW_OUTLIVES_ENTRIES, scenarios.WINDOW, WRITTEN_TWICE),
    (Fix.TWO_CLOCKS, scenarios.CLOCKS, WRITTEN_TWICE),
    (Fix.LATEST_CLOCK, scenarios.CLOCKS, WRITTEN_TWICE),
    (Fix.OLD_ENTRIES_REFUSED, scenarios.WINDOW, WRITTEN_TWICE),
    (Fix.AGE_AT_WRITE, scenarios.FROZEN, WRITTEN_TWICE),
    (Fix.AGE_BY_LATER_CLOCK, scenarios.CLOCKS, WRITTEN_TWICE),
    (Fix.AGE_FROM_ASKED, scenarios.CLOCKS, WRITTEN_TWICE),
    (Fix.OLD_CALL_UNKNOWN, scenarios.LONG_WAIT, TOLD_FALSELY),
    (Fix.COMMIT_BEFORE_ACKNOWLEDGE, scenarios.ONE_CALLER, LOST),
    (Fix.CONFIRM_BEFORE_ACKNOWLEDGE, scenarios.ONE_CALLER, STRANDED),
    (Fix.RECOVERY, scenarios.FIRE_AND_FORGET, STUCK),
    (Fix.FOLLOWERS_WAIT, scenarios.ORDER, OUT_OF_ORDER),
    (Fix.READ_BY_POSITION, scenarios.ORDER_OF_TWO_DRAINS, OUT_OF_ORDER),
    (Fix.FORGOTTEN_NOT_TOLD, scenarios.LONG_WAIT, TOLD_FALSELY),
    (Fix.UNDECODED_NOT_TOLD, scenarios.UNDECODABLE, TOLD_FALSELY),
    (Fix.QUEUE_HAS_ONE_SINK, scenarios.SECOND_BATCHER, WRITTEN_TWICE),
    (Fix.QUEUE_HAS_ONE_SINK, scenarios.SECOND_BATCHER_LOSS, TOLD_FALSELY),
    (Fix.SINK_KEPT_IN_TEMPORAL, scenarios.SECOND_BATCHER_LOSS, TOLD_FALSELY),
    (Fix.SAME_ATTEMPT, scenarios.ONE_CALLER, TOLD_FALSELY),
    (Fix.ATTEMPT_OF_ONE_CALL, scenarios.CORRECTED, TOLD_FALSELY),
    (Fix.ASKED_AT_SUBMIT, scenarios.SIBLINGS, TOLD_FALSELY),
    (Fix.CERTAIN_AT_FIRST_ONLY, scenarios.ONE_CALLER, TOLD_FALSELY),
    (Fix.RECEIPT_NAMES_RECORD, scenarios.OTHER_RECORD, TOLD_FALSELY),
    (Fix.RECEIPT_NAMES_RECORD, scenarios.CORRECTED, TOLD_FALSELY),
    (Fix.REJECTION_NAMES_ATTEMPT, scenarios.SAME_RECORD, TOLD_FALSELY),
    (Fix.SETTLING_ASKS_LEDGER, scenarios.REPLAY, TOLD_FALSELY),
    (Fix.REPLAY_OF_WAITING_ONLY, scenarios.REPLAY_FAILED, TOLD_FALSELY),
    (Fix.DISCARD_IS_SETTLED, scenarios.DISCARD, TOLD_FALSELY),
)

# Two rules that cover the same fault: only without both does something break.
WITHOUT_BOTH = ((Fix.REPLAY_KEEPS_AGE, Fix.AGE_FROM_ASKED, scenarios.REPLAY_LATE),)


def name_of(parameter: Fix | Scenario | str) -> str:
    match parameter:
        case Fix():
            return parameter.name.lower().replace("_", " ")
        case Scenario():
            return parameter.name
        case _:
            return parameter


def explored(scenario: Scenario, without: frozenset[Fix] = frozenset()) -> Exploration:
    protocol = Protocol(scenario, ALL_FIXES - without)
    return explore(scenario.initial(), protocol.steps, Promises(protocol).broken)


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=name_of)
def test_protocol_keeps_its_promises_in_every_interleaving(scenario: Scenario) -> None:
    found = explored(scenario)
    assert found.violation is None, str(found)
    assert found.states > 30, "nothing happens in this scenario"


@pytest.mark.parametrize(("fix", "scenario", "promise"), WITHOUT, ids=name_of)
def test_model_finds_what_breaks_without_a_rule(fix: Fix, scenario: Scenario, promise: str) -> None:
    found = explored(scenario, frozenset({fix}))
    logger.info("Without this rule: %s. %s: %s", fix, scenario.name, found)
    assert str(found.violation).startswith(promise)


@pytest.mark.parametrize(("fix", "other", "scenario"), WITHOUT_BOTH, ids=name_of)
def test_model_finds_what_breaks_without_two_rules(fix: Fix, other: Fix, scenario: Scenario) -> None:
    assert explored(scenario, frozenset({fix})).violation is None
    found = explored(scenario, frozenset({fix, other}))
    logger.info("Without these rules: %s; %s. %s: %s", fix, other, scenario.name, found)
    assert found.violation is not None


def test_model_finds_a_caller_that_takes_any_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "accepts_receipt", lambda receipt, **_: True)
    assert str(explored(scenarios.OTHER_RECORD).violation).startswith(TOLD_FALSELY)


def test_model_finds_a_ledger_that_forgets_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "expiry", lambda now, window: now + window)
    assert str(explored(scenarios.WINDOW).violation).startswith(WRITTEN_TWICE)


def test_model_finds_a_withdrawal_that_binds_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decision, "binds", Decision.is_about)
    assert str(explored(scenarios.SAME_RECORD).violation).startswith(TOLD_FALSELY)


def test_model_finds_an_announcement_that_accepts_any_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    temporal_is_not_asked = frozenset({Fix.SINK_KEPT_IN_TEMPORAL})
    assert explored(scenarios.SECOND_BATCHER, temporal_is_not_asked).violation is None
    monkeypatch.setattr(decisions, "may_join", lambda announced, sink: True)
    assert str(explored(scenarios.SECOND_BATCHER, temporal_is_not_asked).violation).startswith(WRITTEN_TWICE)


def test_every_rule_is_taken_out_by_a_test() -> None:
    assert set(Fix) == {fix for fix, _, _ in WITHOUT} | {fix for fix, _, _ in WITHOUT_BOTH}


def test_explorer_finds_the_shortest_way() -> None:
    def steps(number: int) -> list[Step[int]]:
        return [Step("add 1", number + 1), Step("double", number * 2)]

    found = explore(1, steps, lambda number: "ten" if number == 10 else None)
    assert found.trace == ("add 1", "double", "add 1", "double")
