"""How a text or a value that somebody else wrote is shown: it must neither forge a log line nor steer a terminal."""

from datetime import timedelta

SHOWN_TYPES = (int, float, bool, timedelta, type(None))
MAX_SHOWN_CHARS = 80
MAX_SHOWN_BITS = 256  # Python refuses to write out integers of more than 4,300 digits


def escaped(text: str) -> str:
    """Return `text` with escapes in place of all characters that are not printable, such as line ends."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(value: object) -> str:
    """Return how a message names any value that was given for another: short, whatever the value is."""
    if isinstance(value, str):
        return f"{str.__str__(value)!r:.{MAX_SHOWN_CHARS}}"
    if type(value) is int and value.bit_length() > MAX_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    if type(value) in SHOWN_TYPES:
        return f"{value!r:.{MAX_SHOWN_CHARS}}"
    return f"of type {type(value).__name__:.{MAX_SHOWN_CHARS}}"
