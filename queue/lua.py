"""The Lua scripts: what must happen in one step, on Redis 6.2 and newer.

They replace MULTI, which Redis 6.2 and 7.0 refuse under maxmemory, so that a full stream could never be drained. Under
maxmemory a script may add data after a first write that needs no memory.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

FOLDER = Path(__file__).parent / "scripts"


def _script(*names: str) -> str:
    """The text of these files of `scripts/`, one after the other."""
    return "\n".join((FOLDER / f"{name}.lua").read_text("utf-8") for name in names)


class Script:
    """A script that runs where its keys are. A server that does not know it is sent its text: redis-py's own scripts
    are loaded into all servers of a cluster instead, and fail while one of them is down.
    """

    def __init__(self, redis: Redis, text: str) -> None:
        self._redis = redis
        self._text = text

    async def __call__(self, *, keys: Sequence[str], args: Sequence[str | bytes | int] = ()) -> Any:
        """Run the script. Raises errors of redis-py."""
        parameters: Any = [len(keys), *keys, *args]
        try:
            return await self._redis.evalsha(_digest(self._text), *parameters)
        except NoScriptError:
            return await self._redis.eval(self._text, *parameters)


@cache
def _digest(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


# Those of one partition begin with its keys.
APPEND = _script("keys", "marker", "now_ms", "append")
ACKNOWLEDGE = _script("keys", "marker", "forget", "acknowledge")
DEAD_LETTER = _script("keys", "marker", "forget", "forget_dead", "dead_letter")
TRIM_DEAD = _script("keys", "marker", "now_ms", "forget_dead", "trim_dead")
DISCARD = _script("keys", "marker", "forget_dead", "discard")
REPLAY = _script("keys", "marker", "now_ms", "forget_dead", "replay")
QUEUED_AGAIN = _script("keys", "marker", "queued_again")
BEGIN_ALONE = _script("keys", "begin_alone")
STATISTICS = _script("keys", "now_ms", "group_info", "statistics")

READ_NEW = _script("group_info", "collect", "read_new")
READ_DELIVERED = _script("group_info", "collect", "read_delivered")
READ_ALL = _script("collect", "read_all")
MARK = _script("mark")
NOW = _script("now_ms", "now")

# Those of the contract of a queue.
ANNOUNCE = _script("now_ms", "announce")
LEAVE = _script("leave")

# Those by which the drains and the workers of a queue do something one after the other.
TURN = _script("turn")
LEASE = _script("lease")
