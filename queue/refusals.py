"""Why a request is not appended: what its caller is told, and whether it may be accepted later."""

from datetime import timedelta

from write_batcher.models import Appended, WriteRequest
from write_batcher.queue.contract import Contract

TABLES_NAMED = 20  # in a message


def no_batcher(queue: str) -> Appended:
    """Refuse, for now, a request for a queue without a contract."""
    return Appended(
        refused=f"Queue {queue!r} has no batcher yet: start one with `write-batcher worker batcher --queue {queue}`, "
        "or correct the name.",
        later=True,
        no_batcher=True,
    )


def confirmed_too_early(contract: Contract, confirm_timeout_ms: int | None) -> Appended | None:
    """Refuse a caller that would give up before its batch is closed."""
    if confirm_timeout_ms is None or confirm_timeout_ms > contract.max_wait_ms:
        return None
    return Appended(
        refused=f"confirm_timeout is {_seconds(confirm_timeout_ms)}, and a batch may stay open for max_wait, "
        f"{_seconds(contract.max_wait_ms)}: raise confirm_timeout above max_wait, or lower the batcher's "
        "WRITE_BATCHER_MAX_WAIT."
    )


def unknown_table(contract: Contract, queue: str, table: str, *, later: bool) -> Appended | None:
    """Refuse a request for a table that no batcher of the queue has; for now when a batcher may come that has it."""
    if not contract.tables or table in contract.tables:
        return None
    names = sorted(contract.tables)
    more = f" and {len(names) - TABLES_NAMED} more" if len(names) > TABLES_NAMED else ""
    return Appended(
        refused=f"Queue {queue!r} has no table {table!r}, but {', '.join(names[:TABLES_NAMED])}{more}: correct the "
        "name, or start a batcher with the table (WRITE_BATCHER_TABLES).",
        later=later,
    )


def too_large(contract: Contract, request: WriteRequest, size_bytes: int) -> Appended | None:
    """Refuse a request whose entry has `size_bytes`."""
    if size_bytes <= contract.max_request_bytes:
        return None
    return Appended(
        refused=f"Request {request.request_id!r} has {size_bytes} bytes encoded, the limit is "
        f"{contract.max_request_bytes}: store large data elsewhere and write its address, or raise the batcher's "
        "WRITE_BATCHER_MAX_REQUEST_BYTES."
    )


def stream_full(contract: Contract, stream_key: str, backlog: int) -> Appended:
    """Refuse, for now, a request for a stream with `backlog` entries."""
    return Appended(
        refused=f"Stream {stream_key} holds {backlog} entries, the limit is {contract.max_backlog} "
        "(WRITE_BATCHER_MAX_BACKLOG of the batcher): the batcher is behind or not running.",
        later=True,
    )


def _seconds(ms: int) -> str:
    return f"{timedelta(milliseconds=ms).total_seconds():g} s"
