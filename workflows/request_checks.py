"""What `submit` is given, checked before anything is handed to Temporal: its errors would fail the workflow task."""

import math
from uuid import UUID

from write_batcher.errors import WriteNotSubmitted
from write_batcher.escaping import shown
from write_batcher.models import MAX_REQUEST_ID_BYTES

MAX_TABLE_BYTES = 512
MAX_ID_BITS = math.floor(MAX_REQUEST_ID_BYTES * math.log2(10))  # of an integer


def checked_table(table: object) -> str:
    """Return the table's name. Raises `WriteNotSubmitted` when it is none."""
    if not isinstance(table, str):
        raise WriteNotSubmitted(f"The table is {shown(table)}: use its name.")
    return _checked("Table", table, MAX_TABLE_BYTES, cure=f"use 1 to {MAX_TABLE_BYTES}")


def checked_id(what: str, value: object) -> str:
    """Return a request id or a key as text, also when it is an integer or a UUID. Raises `WriteNotSubmitted` when it is
    something else, empty or too long.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise WriteNotSubmitted(f"{what} is {shown(value)}: use text, an integer or a UUID.")
    if isinstance(value, int) and value.bit_length() > MAX_ID_BITS:
        raise WriteNotSubmitted(f"{what} is {shown(value)}: use up to {MAX_REQUEST_ID_BYTES} digits.")
    cure = f"use 1 to {MAX_REQUEST_ID_BYTES}, or leave it out"
    return _checked(what, value if isinstance(value, str) else str(value), MAX_REQUEST_ID_BYTES, cure=cure)


def _checked(what: str, value: str, limit: int, *, cure: str) -> str:
    text = str.__str__(value)  # of a text enum, its value
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise WriteNotSubmitted(f"{what} {text[:80]!r} is not valid Unicode: {error.reason}.") from None
    if not 1 <= size <= limit:
        raise WriteNotSubmitted(f"{what} {text[:80]!r} has {size} bytes: {cure}.")
    if "\0" in text:  # no PostgreSQL can store it
        raise WriteNotSubmitted(f"{what} {text[:80]!r} contains a NUL character: leave it out.")
    return text
