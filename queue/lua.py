"""The Lua scripts of one partition: what must happen in one step, on any Redis from 6.2 on.

Not MULTI: Redis 6.2 and 7.0 refuse it under maxmemory, and then the stream could never drain. Under maxmemory a script
may add once it has made a first write that needs no memory.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "scripts"


def _script(*names: str) -> str:
    """The text of these files of `scripts/`, one behind the other."""
    return "\n".join((FOLDER / f"{name}.lua").read_text("utf-8") for name in names)


APPEND = _script("keys", "append")
ACKNOWLEDGE = _script("keys", "forget", "acknowledge")
DEAD_LETTER = _script("keys", "forget", "dead_letter")
BEGIN_ALONE = _script("keys", "begin_alone")
REPLAY = _script("keys", "replay")
CLAIM_FOREIGN = _script("claim_foreign")
NOW = _script("now")
