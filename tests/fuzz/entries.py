"""Coverage-guided fuzzing of the decoder of stream entries: `make fuzz SECONDS=60`.

The first byte chooses what the remaining bytes are: one field of a valid entry, such as its payload, or a whole entry.
"""

import asyncio
import contextlib
import sys

import atheris  # type: ignore[import-untyped] # installed only by `make fuzz`

with atheris.instrument_imports():
    from temporalio.converter import DataConverter

    from write_batcher.errors import CodecUnavailable, InvalidEntry
    from write_batcher.models import QueueRef, WriteRequest
    from write_batcher.queue.marks import decode_held_marks, decode_orders
    from write_batcher.queue.record_encoding import with_hash
    from write_batcher.queue.signing import Signer
    from write_batcher.queue.stream_entry import StreamEntry
    from write_batcher.queue.wire_form import Codec

CODEC = Codec(DataConverter.default)
LOOP = asyncio.new_event_loop()
VALID = LOOP.run_until_complete(CODEC.encode(WriteRequest(request_id="a", table="orders", record={"cents": 5})))
FIELDS = (b"reply", b"payload", b"id", b"key", b"asked", b"first", b"v", b"sig")
SIGNER = Signer("secret", QueueRef(namespace="default", name="orders"))


def one_input(data: bytes) -> None:
    if not data:
        return
    choice, rest = data[0] % (len(FIELDS) + 1), data[1:]
    if choice < len(FIELDS):
        fields = VALID | {FIELDS[choice]: rest}
    else:
        parts = rest.split(b"\0")
        fields = dict(zip(parts[::2], parts[1::2], strict=False))
    entry = StreamEntry.of("1-0", fields)
    _ = entry.size_bytes, entry.first_ms, entry.order_key
    assert SIGNER.objection(fields, 1), "nobody signed it"
    decode_held_marks({b"1-0": rest})
    decode_orders({b"1-0": rest})
    with contextlib.suppress(InvalidEntry, CodecUnavailable):
        request = LOOP.run_until_complete(CODEC.decode(fields))
        assert request == with_hash(request)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
