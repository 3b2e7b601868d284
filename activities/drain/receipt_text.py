"""Texts of others, as they may stand in a receipt, a mark or a log line."""

MAX_ERROR_CHARS = 500  # a confirmation must stay tiny


def printable(text: str) -> str:
    """Return `text` in one line of at most 500 characters, with control characters escaped: what somebody else wrote
    must not steer a terminal.
    """
    text = text[:MAX_ERROR_CHARS]
    if text.isprintable():
        return text
    escaped = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return escaped[:MAX_ERROR_CHARS]


def reason_of(error: BaseException) -> str:
    """Return an error in one line, with its type."""
    return printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
