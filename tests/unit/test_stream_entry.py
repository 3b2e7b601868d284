import pytest

from tests.support.partitions import fields
from write_batcher.queue.stream_entry import StreamEntry, position
from write_batcher.queue.wire_form import Fields

ENTRY_ID = "1700000000123-4"


def entry(**more: bytes) -> StreamEntry:
    named: Fields = {name.encode(): value for name, value in more.items()}
    return StreamEntry.of(ENTRY_ID, fields("a") | named)


def test_entry_knows_its_size_time_and_request() -> None:
    found = StreamEntry.of(ENTRY_ID, {b"id": b"abc", b"payload": b"12345"})
    assert (found.size_bytes, found.entry_ms, found.request_id) == (17, 1_700_000_000_123, b"abc")
    assert found.position == position(ENTRY_ID) > position("1700000000123-3") > position("0")


@pytest.mark.parametrize(("key", "shared"), [({}, b"a"), ({"key": b""}, b"a"), ({"key": b"k"}, b"k")])
def test_order_key_is_the_key_or_the_request_id(key: dict[str, bytes], shared: bytes) -> None:
    assert entry(**key).order_key == shared


@pytest.mark.parametrize(
    ("times", "first_ms"),
    [
        ({}, 1_700_000_000_123),
        ({"counted": b"1600000000000"}, 1_600_000_000_000),
        ({"counted": b"1600000000000", "first": b"1500000000000"}, 1_500_000_000_000),
        ({"asked": b"1400000000000", "first": b"1500000000000"}, 1_400_000_000_000),
        ({"asked": b"999999999999999999"}, 1_700_000_000_123),
        ({"asked": b"-1", "first": b"soon", "counted": b""}, 1_700_000_000_123),
    ],
)
def test_age_counts_from_the_earliest_time_that_is_known(times: dict[str, bytes], first_ms: int) -> None:
    assert entry(**times).first_ms == first_ms
