"""The records that are written in a benchmark."""

import json

import pytest

from write_batcher.bench.encryption import AesGcmCodec
from write_batcher.bench.record_shapes import NOTE_CHARS, PLAIN, WIDE, RecordShape
from write_batcher.queue.record_encoding import canonical_json

SHAPES = pytest.mark.parametrize("shape", [PLAIN, WIDE], ids=["plain", "wide"])


@SHAPES
def test_records_differ_and_have_every_column(shape: RecordShape) -> None:
    records = [shape.record(number) for number in range(1_000)]
    assert len({record["id"] for record in records}) == 1_000
    assert {tuple(record) for record in records} == {shape.names()}
    assert {len(record["note"]) for record in records} == {NOTE_CHARS}
    assert all(canonical_json(shape.table, record) for record in records)


def test_plain_record_has_some_150_characters() -> None:
    assert 140 <= sum(map(len, PLAIN.record(1).values())) <= 160


def test_row_has_the_order_of_the_columns_and_json_as_text() -> None:
    record = WIDE.record(7)
    row = WIDE.row(dict(reversed(record.items())))
    assert row[0] == record["id"]
    assert json.loads(row[WIDE.names().index("details")]) == record["details"]


async def test_encrypted_payload_hides_its_data_and_is_decrypted() -> None:
    from temporalio.api.common.v1 import Payload

    codec, plain = AesGcmCodec(), Payload(metadata={"encoding": b"json/plain"}, data=b'{"a": 1}')
    [encrypted] = await codec.encode([plain])
    assert plain.data not in encrypted.SerializeToString()
    assert await codec.decode([encrypted]) == [plain]
    assert codec.decrypted(encrypted) == plain
