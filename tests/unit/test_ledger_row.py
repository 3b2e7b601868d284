"""How the ledger's row decides about later requests with its id, without any database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from write_batcher.errors import InvalidRequest
from write_batcher.models import MAX_REQUEST_AGE, ConfirmBy, Outcome, ReplyAddress, WriteRequest
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.sql.ledger_row import MAX_DECISIONS, LedgerRow, check_storable, decided, expiry, settled

QUEUE = "default/orders"


def asks(attempt: str = "a1", *, workflow: str = "w", asked_ms: int | None = 1000, cents: int = 100) -> WriteRequest:
    return with_hash(
        WriteRequest(
            request_id="order-7",
            table="orders",
            record={"cents": cents},
            reply=ReplyAddress(workflow_id=workflow, run_id="run", attempt=attempt),
            asked_ms=asked_ms,
        )
    )


def after(*steps: tuple[WriteRequest, Outcome]) -> LedgerRow:
    """The row after these outcomes, none of which decided about the next."""
    row = None
    for request, outcome in steps:
        assert row is None or row.answer(request) is None
        row = decided(request, outcome, queue=QUEUE, batch_id="batch-1", error="no", earlier=row)
    assert row is not None
    return row


def outcome_for(row: LedgerRow, request: WriteRequest) -> Outcome | None:
    receipt = row.answer(request, batch_id="batch-2")
    if receipt is not None:
        assert (receipt.record_hash, receipt.attempt) == (request.record_hash, request.attempt)
    return None if receipt is None else receipt.outcome


def test_written_record_is_a_duplicate_for_everybody_and_names_its_batch() -> None:
    row = after((asks("a1"), Outcome.WRITTEN))

    for request in (asks("a1"), asks("a2"), asks("b1", workflow="another"), replace(asks(), reply=None)):
        receipt = row.answer(request, batch_id="batch-2")
        assert receipt is not None
        assert (receipt.outcome, receipt.batch_id) == (Outcome.DUPLICATE, "batch-1")


def test_another_record_under_a_written_id_is_a_conflict() -> None:
    receipt = after((asks("a1"), Outcome.WRITTEN)).answer(asks("a2", cents=200), batch_id="batch-2")

    assert receipt is not None
    assert (receipt.outcome, receipt.batch_id) == (Outcome.REJECTED, "batch-2")
    assert "'order-7' was already used for another record" in (receipt.error or "")
    assert receipt.record_hash == asks("a2", cents=200).record_hash


def test_row_that_this_very_attempt_wrote_is_its_own_whatever_the_hash() -> None:
    """A data converter may encode a record differently after an upgrade."""
    assert outcome_for(after((asks("a1"), Outcome.WRITTEN)), asks("a1", cents=200)) is Outcome.DUPLICATE


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.WITHDRAWN])
def test_refusal_binds_its_attempt_and_earlier_ones_of_its_workflow(outcome: Outcome) -> None:
    row = after((asks("a2", asked_ms=2000), outcome))

    assert outcome_for(row, asks("a2", asked_ms=2000)) is outcome
    assert outcome_for(row, asks("a1", asked_ms=1000)) is outcome


def test_refusal_of_another_record_is_told_as_a_conflict() -> None:
    """What the database had against the one record says nothing about the other."""
    row = after((asks("a2", asked_ms=2000, cents=-1), Outcome.REJECTED))

    receipt = row.answer(asks("a1", asked_ms=1000))

    assert receipt is not None
    assert receipt.outcome is Outcome.REJECTED
    assert (receipt.error or "").startswith("Conflict: request id")


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.WITHDRAWN])
def test_refusal_binds_no_later_call_and_no_other_workflow(outcome: Outcome) -> None:
    row = after((asks("a2", asked_ms=2000), outcome))

    assert outcome_for(row, asks("a3", asked_ms=2000)) is None
    assert outcome_for(row, asks("a3", asked_ms=3000, cents=5)) is None
    assert outcome_for(row, asks("b1", workflow="another", asked_ms=1000)) is None
    assert outcome_for(row, asks("a2", workflow="another", asked_ms=1000)) is None
    assert outcome_for(row, replace(asks(), reply=None)) is None


def test_each_attempt_is_told_its_own_outcome() -> None:
    row = after(
        (asks("a1", asked_ms=1000), Outcome.REJECTED),
        (asks("a2", asked_ms=2000), Outcome.WITHDRAWN),
        (asks("b1", workflow="another", asked_ms=500), Outcome.REJECTED),
    )

    assert outcome_for(row, asks("a1", asked_ms=1000)) is Outcome.REJECTED
    assert outcome_for(row, asks("a2", asked_ms=2000)) is Outcome.WITHDRAWN
    assert outcome_for(row, asks("b1", workflow="another", asked_ms=500)) is Outcome.REJECTED


def test_replayed_request_ignores_rejections() -> None:
    row = after((asks("a1"), Outcome.REJECTED))

    assert outcome_for(row, replace(asks("a1"), replayed=True)) is None


def test_replayed_request_of_a_withdrawn_caller_stays_withdrawn() -> None:
    """Its caller was told "not written", and that it never will be."""
    row = after((asks("a1", asked_ms=1000), Outcome.REJECTED), (asks("a2", asked_ms=2000), Outcome.WITHDRAWN))

    for request in (asks("a1", asked_ms=1000), asks("a2", asked_ms=2000)):
        assert outcome_for(row, replace(request, replayed=True)) is Outcome.WITHDRAWN


def test_replayed_request_that_is_rejected_again_has_one_decision() -> None:
    row = after((asks("a1"), Outcome.REJECTED))

    again = decided(replace(asks("a1"), replayed=True), Outcome.REJECTED, queue=QUEUE, error="still no", earlier=row)

    assert [(one.attempt, one.error) for one in again.decisions] == [("a1", "still no")]


def test_no_number_of_withdrawals_unbinds_one() -> None:
    callers = [asks("a", workflow=f"w-{n}", asked_ms=1000 + n) for n in range(MAX_DECISIONS + 50)]

    row = after(*((caller, Outcome.WITHDRAWN) for caller in callers))

    assert len(row.decisions) == MAX_DECISIONS
    assert {outcome_for(row, caller) for caller in callers} == {Outcome.WITHDRAWN}
    assert outcome_for(row, asks("a", workflow="new", asked_ms=10_000)) is None


def test_dropped_decision_without_a_time_still_binds() -> None:
    undated = asks("undated", workflow="u", asked_ms=None)
    many = [asks("a", workflow=f"w-{n}", asked_ms=1000 + n) for n in range(MAX_DECISIONS)]

    row = after((undated, Outcome.WITHDRAWN), *((caller, Outcome.WITHDRAWN) for caller in many))

    assert undated.attempt not in {decision.attempt for decision in row.decisions}
    assert outcome_for(row, undated) is Outcome.WITHDRAWN


def test_row_outlives_every_entry_that_can_be_appended_in_the_window() -> None:
    """Written on day 0, submitted again on day 6.9, kept pending for as long as an entry may."""
    written, window = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=7)

    assert expiry(written, window) > written + window + MAX_REQUEST_AGE


@pytest.mark.parametrize(
    "request_",
    [
        replace(asks(), request_id="a\0b"),
        replace(asks(), request_id="\ud800"),
        replace(asks(), request_id="x" * 2000),
        asks("a\0b"),
        asks(workflow="w" * 2001),
    ],
)
def test_request_that_no_ledger_can_hold_is_invalid(request_: WriteRequest) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot be kept: use up to \d+ bytes"):
        check_storable(request_, QUEUE)


def test_calls_of_a_run_that_share_one_name_are_told_apart() -> None:
    """An attempt that another language leaves out is the run id: of every call of the run."""
    row = after((asks("run-1", asked_ms=1000), Outcome.WRITTEN))

    assert outcome_for(row, asks("run-1", asked_ms=2000, cents=200)) is Outcome.REJECTED
    undated = after((asks("run-1", asked_ms=None), Outcome.WRITTEN))
    assert outcome_for(undated, asks("run-1", asked_ms=None, cents=200)) is Outcome.REJECTED


@pytest.mark.parametrize(
    "reply",
    [
        ReplyAddress(workflow_id="w", run_id="run", attempt="a1", awaits_replay=True),
        ReplyAddress(workflow_id="w", run_id="run", attempt="a1", mode=ConfirmBy.NONE),
    ],
)
def test_rejection_that_a_caller_has_settled_is_not_replayed(reply: ReplyAddress) -> None:
    """Its dead letter would be taken by default, although its caller was told for good that nothing is written."""
    request = replace(asks("a1"), reply=reply)
    row = after((request, Outcome.REJECTED))

    after_settling, receipt = settled(request, Outcome.WITHDRAWN, earlier=row)

    assert (receipt.outcome, receipt.error) == (Outcome.REJECTED, "no")
    assert after_settling is not None
    assert outcome_for(after_settling, replace(request, replayed=True)) is Outcome.WITHDRAWN


def test_settling_changes_no_other_row() -> None:
    waiting, written = asks("a1"), after((asks("a1"), Outcome.WRITTEN))
    for row, request in ((after((waiting, Outcome.REJECTED)), waiting), (written, asks("a2", cents=200))):
        assert settled(request, Outcome.WITHDRAWN, earlier=row) == (None, row.answer(request))
