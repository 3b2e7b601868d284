"""How old a request may be: one whose outcome the ledger may have forgotten is not written any more."""

import time
from datetime import timedelta

from write_batcher.activities.drain.clock import ServerClock
from write_batcher.queue.stream_entry import StreamEntry

# Beyond the greatest age, for which the ledger surely remembers what it has written. Less than the margin in its rows,
# because settling comes a little later.
SURELY_REMEMBERED_FOR = timedelta(hours=12)


def age_of(*, first_ms: int, redis_ms: int, own_ms: int) -> timedelta:
    """Return the age of a request; all times are in milliseconds since the epoch.

    It is never too low unless the clocks of Redis and of this process are both wrong, or those of Redis and of the
    caller were. `first_ms` is the earliest time that its entry names: `StreamEntry.first_ms`.
    """
    return timedelta(milliseconds=max(max(redis_ms, own_ms) - first_ms, 0))


class AgeLimit:
    """The greatest age of the requests of one partition."""

    def __init__(self, max_age: timedelta, clock: ServerClock) -> None:
        self._max_age = max_age
        self._clock = clock

    def oldest_ms(self) -> int:
        """When the oldest request was made that may be written now, in milliseconds since the epoch: to look at many
        entries at once. For what was made before there is a `refusal`.
        """
        return max(self._clock.now_ms(), _own_ms()) - self._max_age // timedelta(milliseconds=1)

    def refusal(self, entry: StreamEntry) -> str | None:
        """Why an entry must not be written; None when it is young enough."""
        age = self._age(entry)
        if age <= self._max_age:
            return None
        return (
            f"The request was made {age} ago, longer than the ledger remembers ({self._max_age}): look whether the "
            "record is in the table, and submit it anew if it is not."
        )

    def is_forgotten(self, entry: StreamEntry) -> bool:
        """Whether it is so old that the ledger may not even know whether it has been written."""
        return self._age(entry) > self._max_age + SURELY_REMEMBERED_FOR

    def _age(self, entry: StreamEntry) -> timedelta:
        return age_of(first_ms=entry.first_ms, redis_ms=self._clock.now_ms(), own_ms=_own_ms())


def _own_ms() -> int:
    return int(time.time() * 1000)
