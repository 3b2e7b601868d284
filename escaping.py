"""How a text that somebody else wrote is shown: it must neither forge a log line nor steer a terminal."""


def escaped(text: str) -> str:
    """Return `text` with escapes in place of all characters that are not printable, such as line ends."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
