"""The one encoding of a record: what its hash is taken from, and what is appended, settled and submitted again.

It loads no driver, so that workflows may use it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from write_batcher.models import WriteRequest

ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(table: str, record: Mapping[str, Any]) -> bytes:
    """Return table and record as UTF-8 JSON with sorted keys and no spaces: the same bytes for equal records, in every
    process.

    Raises `ValueError` when they hold what JSON cannot: NaN, infinities, lone surrogates, references in a circle; and
    `TypeError` when they hold values of other types than JSON's.
    """
    try:
        text = ENCODER.encode({"record": record, "table": table})
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return text.encode()


def record_hash(encoded: bytes) -> str:
    """Return the SHA-256 of what `canonical_json` returned, in 64 hexadecimal digits."""
    return sha256(encoded).hexdigest()


def with_hash(request: WriteRequest) -> WriteRequest:
    """Return the request with the hash of its record. Raises as `canonical_json` does."""
    return replace(request, record_hash=record_hash(canonical_json(request.table, request.record)))
