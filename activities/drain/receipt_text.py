"""Texts of others, as they may stand in a receipt, a mark or a log line."""

from write_batcher.escaping import escaped

MAX_ERROR_CHARS = 500  # a confirmation must stay tiny


def printable(text: str) -> str:
    """Return `text` in one line of at most 500 characters, with control characters escaped: what somebody else wrote
    must not steer a terminal.
    """
    return escaped(text[:MAX_ERROR_CHARS])[:MAX_ERROR_CHARS]


def reason_of(error: BaseException) -> str:
    """Return an error in one line, with its type."""
    return printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
