from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st
from temporalio.converter import DataConverter

from tests.support.partitions import queue_ref
from write_batcher.models import MAX_REQUEST_AGE, ReplyAddress, WriteRequest
from write_batcher.queue.signing import CLOCKS_DIFFER_BY, SIGNED, Signer
from write_batcher.queue.wire_form import Codec, Fields

NOW_MS = 1_700_000_000_000
CODEC = Codec(DataConverter.default)
REPLY = ReplyAddress(workflow_id="order-7", run_id="run-1", attempt="a-1")
REQUEST = WriteRequest(
    request_id="order-7/1", key="k", table="orders", record={"cents": 1}, reply=REPLY, asked_ms=NOW_MS
)
SIGNER = Signer("secret", queue_ref("orders"))


async def signed(request: WriteRequest = REQUEST) -> Fields:
    return SIGNER.signed(await CODEC.encode(request))


async def test_signed_entry_passes_with_the_fields_that_the_queue_adds() -> None:
    fields = await signed() | {b"counted": b"1", b"first": b"1"}
    assert SIGNER.objection(fields, NOW_MS) is None


@pytest.mark.parametrize("replayed", [b"", b"1"])
async def test_entry_that_only_says_that_it_is_replayed_does_not_pass(replayed: bytes) -> None:
    fields = await signed() | {b"replayed": replayed}
    assert str(SIGNER.objection(fields, NOW_MS)).startswith("The signature of the entry is wrong: ")


async def test_replayed_entry_passes_with_its_new_signature_alone() -> None:
    fields = await signed()
    replayed = {**fields, b"replayed": b"1", b"sig": SIGNER.signature_for_replay(fields)}
    assert SIGNER.objection(replayed, NOW_MS) is None
    assert SIGNER.objection({**fields, b"sig": replayed[b"sig"]}, NOW_MS)


async def test_entry_may_be_replayed_again_also_when_its_last_replay_was_not_signed_anew() -> None:
    fields = await signed()
    signature = SIGNER.signature_for_replay(fields)
    for earlier in (fields[b"sig"], signature):
        assert SIGNER.signature_for_replay({**fields, b"replayed": b"1", b"sig": earlier}) == signature


async def test_replay_does_not_make_a_wrong_signature_right() -> None:
    forged = Signer("guessed", queue_ref("orders")).signed(await CODEC.encode(REQUEST))
    changed = await signed() | {b"payload": b"another"}
    for fields in (forged, changed, forged | {b"replayed": b"1"}):
        assert SIGNER.signature_for_replay(fields) == fields[b"sig"]


async def test_unsigned_entry_does_not_pass() -> None:
    fields = await CODEC.encode(REQUEST)
    for unsigned in (fields, fields | {b"sig": b""}):
        assert str(SIGNER.objection(unsigned, NOW_MS)).startswith("The entry is not signed: ")


@pytest.mark.parametrize("name", [*SIGNED, b"sig"])
async def test_entry_that_was_changed_later_does_not_pass(name: bytes) -> None:
    fields = await signed() | {b"trace": b"t", b"replayed": b"1"}
    fields = SIGNER.signed(fields)
    for changed in (fields | {name: fields[name] + b"0"}, {**fields, name: b""}):
        assert "sign" in str(SIGNER.objection(changed, NOW_MS))
    without = {field: value for field, value in fields.items() if field != name}
    assert "sign" in str(SIGNER.objection(without, NOW_MS))


@pytest.mark.parametrize(
    "other",
    [
        Signer("Secret", queue_ref("orders")),
        Signer("secret", queue_ref("audits")),
        Signer("secret", queue_ref("orders", "staging")),
    ],
)
async def test_entry_that_was_signed_for_another_queue_or_by_another_key_does_not_pass(other: Signer) -> None:
    fields = other.signed(await CODEC.encode(REQUEST))
    assert str(SIGNER.objection(fields, NOW_MS)).startswith("The signature of the entry is wrong: ")


async def test_signature_ends_with_the_age_at_which_nothing_is_written() -> None:
    fields = await signed()
    limit_ms = MAX_REQUEST_AGE // timedelta(milliseconds=1)
    assert SIGNER.objection(fields, NOW_MS + limit_ms) is None
    assert "7 days, 0:00:00: have its caller submit it anew" in str(SIGNER.objection(fields, NOW_MS + limit_ms + 1))


@pytest.mark.parametrize("asked_ms", [NOW_MS + CLOCKS_DIFFER_BY // timedelta(milliseconds=1) + 1, 10**18 - 1])
async def test_entry_from_the_future_does_not_pass(asked_ms: int) -> None:
    assert "in the future" in str(SIGNER.objection(await signed(replace(REQUEST, asked_ms=asked_ms)), NOW_MS))


@pytest.mark.parametrize("asked_ms", [None, -1, 10**18])
async def test_signed_entry_without_its_time_does_not_pass(asked_ms: int | None) -> None:
    fields = await signed(replace(REQUEST, asked_ms=asked_ms))
    assert str(SIGNER.objection(fields, NOW_MS)).endswith("set its field `asked`.")


@given(
    st.dictionaries(st.sampled_from(SIGNED), st.binary(max_size=4)),
    st.dictionaries(st.sampled_from(SIGNED), st.binary(max_size=4)),
)
def test_different_fields_have_different_signatures(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> None:
    signatures = [SIGNER.signed(fields)[b"sig"] for fields in (one, other)]
    assert (signatures[0] == signatures[1]) is (one == other)


@given(st.dictionaries(st.sampled_from([*SIGNED, b"sig"]), st.binary(max_size=70)))
def test_any_forged_fields_are_objected_to(fields: dict[bytes, Any]) -> None:
    assert SIGNER.objection(fields, NOW_MS)
