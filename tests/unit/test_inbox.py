"""Which receipts a workflow takes for its own, and that looking them up does not depend on how many it waits for."""

import time
from dataclasses import asdict, replace
from typing import Any

import pytest
from temporalio.converter import DataConverter

from write_batcher.errors import WriteNotSubmitted
from write_batcher.models import Outcome, ReplyAddress, Submission, WriteReceipt, WriteRequest
from write_batcher.queue.record_encoding import with_hash
from write_batcher.workflows.awaited_write import MAX_RECORD_BYTES, Write
from write_batcher.workflows.inbox import Inbox, accepts

REQUEST = with_hash(
    WriteRequest(
        request_id="order-7",
        table="orders",
        record={"cents": 5},
        reply=ReplyAddress(workflow_id="caller", run_id="run", attempt="try"),
    )
)
OWN = WriteReceipt(
    request_id="order-7", outcome=Outcome.WRITTEN, queue="orders", record_hash=REQUEST.record_hash, attempt="try"
)
WRITTEN = (Outcome.WRITTEN, Outcome.DUPLICATE)
REFUSED = (Outcome.REJECTED, Outcome.WITHDRAWN)


@pytest.mark.parametrize("outcome", [*WRITTEN, *REFUSED])
def test_own_receipt_is_accepted(outcome: Outcome) -> None:
    assert accepts(replace(OWN, outcome=outcome), queue="orders", request=REQUEST)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("changes", [{"queue": "others"}, {"queue": None}, {"request_id": "order-8"}], ids=str)
def test_receipt_of_another_queue_or_id_is_not_accepted(outcome: Outcome, changes: dict[str, Any]) -> None:
    assert not accepts(replace(OWN, outcome=outcome, **changes), queue="orders", request=REQUEST)


@pytest.mark.parametrize("outcome", WRITTEN)
@pytest.mark.parametrize("attempt", ["another", None])
def test_equal_record_that_another_attempt_wrote_is_written(outcome: Outcome, attempt: str | None) -> None:
    assert accepts(replace(OWN, outcome=outcome, attempt=attempt), queue="orders", request=REQUEST)


@pytest.mark.parametrize("outcome", WRITTEN)
@pytest.mark.parametrize("record_hash", ["0" * 64, "", None])
def test_another_record_under_the_same_id_is_not_the_own_one(outcome: Outcome, record_hash: str | None) -> None:
    receipt = replace(OWN, outcome=outcome, record_hash=record_hash)
    assert not accepts(receipt, queue="orders", request=REQUEST)


@pytest.mark.parametrize("outcome", REFUSED)
@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({"record_hash": None}, True),
        ({"record_hash": "0" * 64}, False),
        ({"attempt": "another"}, False),
        ({"attempt": None}, False),
    ],
    ids=str,
)
def test_refusal_is_about_one_attempt(outcome: Outcome, changes: dict[str, Any], accepted: bool) -> None:
    assert accepts(replace(OWN, outcome=outcome, **changes), queue="orders", request=REQUEST) is accepted


def test_queued_is_no_receipt() -> None:
    assert not accepts(replace(OWN, outcome=Outcome.QUEUED), queue="orders", request=REQUEST)


def test_first_receipt_is_final_unless_it_is_a_rejection() -> None:
    write = Write(queue="orders", request=REQUEST)
    refused = replace(OWN, outcome=Outcome.REJECTED)
    for receipt in (refused, OWN, refused, replace(OWN, outcome=Outcome.WITHDRAWN)):
        write.take(receipt)
    assert write.receipt == OWN


def writes(count: int) -> list[Write]:
    return [Write(queue="orders", request=replace(REQUEST, request_id=f"order-{number}")) for number in range(count)]


def time_to_take_all(count: int) -> float:
    inbox = Inbox()
    waiting = writes(count)
    for write in waiting:
        inbox.expect(write)
    receipts = [asdict(replace(OWN, request_id=write.request.request_id)) for write in waiting]
    began = time.process_time()
    inbox.on_confirmation(receipts)
    took = time.process_time() - began
    assert all(write.receipt for write in waiting)
    for write in waiting:
        inbox.forget(write)
    return took


def test_receipts_are_looked_up_however_many_are_waited_for() -> None:
    few = min(time_to_take_all(200) for _ in range(3)) / 200
    many = min(time_to_take_all(4_000) for _ in range(2)) / 4_000
    assert many < 4 * few


@pytest.mark.parametrize("record", [{"a": float("inf")}, {"a": "\ud800"}, {"a": "x" * MAX_RECORD_BYTES}], ids=range(3))
def test_receipt_for_a_record_that_cannot_be_sent_is_ignored(record: dict[str, object]) -> None:
    inbox = Inbox()
    write = Write(queue="orders", request=replace(REQUEST, record=record))
    inbox.expect(write)
    inbox.on_confirmation([asdict(OWN)])
    assert write.receipt is None
    with pytest.raises(WriteNotSubmitted):
        _ = write.request


@pytest.mark.parametrize("letter", ["x", "ж", "🐘", "\x01"])
def test_size_of_a_write_covers_its_part_of_the_input(letter: str) -> None:
    reply = ReplyAddress(
        workflow_id=letter * 100, run_id="r" * 36, attempt="ffffffffffffffff-10000", awaits_replay=True
    )
    request = replace(
        REQUEST, request_id=letter * 100, key=letter * 100, record={"a": letter * 1_000}, reply=reply, asked_ms=10**13
    )
    write = Write(queue="orders", request=request)
    submission = Submission(queue="orders", requests=[replace(write.request, record_hash="")] * 10)
    encoded = len(DataConverter.default.payload_converter.to_payload(submission).data)
    assert encoded < 10 * write.size + 200
