"""The Lua scripts of one partition: what must happen in one step, on any Redis from 6.2 on.

Scripts instead of MULTI: under maxmemory Redis 6.2 and 7.0 refuse MULTI, and the stream could never be drained. A
script may add data under maxmemory once its first write is one that needs no memory.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "scripts"


def _script(*names: str) -> str:
    return "\n".join((FOLDER / f"{name}.lua").read_text("utf-8") for name in names)


APPEND = _script("keys", "append")
ACKNOWLEDGE = _script("keys", "forget", "acknowledge")
DEAD_LETTER = _script("keys", "forget", "dead_letter")
BEGIN_ALONE = _script("keys", "begin_alone")
REPLAY = _script("keys", "replay")
CLAIM_FOREIGN = _script("claim_foreign")
NOW = _script("now")
