import subprocess
import sys
from typing import Any

import pytest

from write_batcher.models import WriteRequest
from write_batcher.queue.record_encoding import canonical_json, record_hash, with_hash


def test_equal_records_have_equal_bytes_whatever_their_order() -> None:
    one = canonical_json("orders", {"b": [1, 2.5, None], "a": {"é": True, "d": "\n"}})
    other = canonical_json("orders", {"a": {"d": "\n", "é": True}, "b": [1, 2.5, None]})
    assert one == other == '{"record":{"a":{"d":"\\n","é":true},"b":[1,2.5,null]},"table":"orders"}'.encode()


def test_hash_depends_on_the_table_and_the_record() -> None:
    hashes = {
        with_hash(WriteRequest(request_id="a", table=table, record=record)).record_hash
        for table, record in (("orders", {"x": 1}), ("audits", {"x": 1}), ("orders", {"x": 2}), ("orders", {"x": "1"}))
    }
    assert len(hashes) == 4
    assert {len(each) for each in hashes} == {64}


def test_hash_is_the_same_in_every_process() -> None:
    code = (
        "from write_batcher.queue.record_encoding import *; "
        "print(record_hash(canonical_json('orders', {'b': 1, 'a': 'é'})))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == record_hash(canonical_json("orders", {"a": "é", "b": 1}))


def deep() -> dict[str, Any]:
    record: dict[str, Any] = {}
    for _ in range(10_000):
        record = {"inner": record}
    return record


def circle() -> dict[str, Any]:
    record: dict[str, Any] = {}
    record["itself"] = record
    return record


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"x": float("nan")}, ValueError),
        ({"x": float("-inf")}, ValueError),
        ({"x": "\ud800"}, ValueError),
        (deep(), ValueError),
        (circle(), ValueError),
        ({"x": {1, 2}}, TypeError),
        ({"x": b"bytes"}, TypeError),
        ({"x": iter([1])}, TypeError),
        ({("a", "b"): 1}, TypeError),
    ],
    ids=["NaN", "infinity", "lone surrogate", "too deep", "circle", "set", "bytes", "iterator", "tuple as key"],
)
def test_what_has_no_stable_encoding_is_refused(record: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        canonical_json("orders", record)
