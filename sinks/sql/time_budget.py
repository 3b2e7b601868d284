"""The time that one batch may take."""

import time
from datetime import timedelta

from write_batcher.errors import BatchTooLarge

# After that, the batch is not pursued further: looking for the records that are at fault takes too long, or all are
# slow. With one more statement at its timeout, this is below the sink's limit for a batch.
SEARCH_LIMIT = timedelta(seconds=12)


class TimeBudget:
    """Ends what takes too long before the caller's own limit does, which would tell nothing."""

    def __init__(self, requests: int) -> None:
        """`requests` is the number of requests in the batch. One alone may take its time: no smaller batch exists."""
        self._requests = requests
        self._started = time.monotonic()
        self._answered: float | None = None

    def check(self) -> None:
        """Note an answer of the database. Raises `BatchTooLarge` when the limit is exceeded."""
        self._answered = time.monotonic()
        if self._requests > 1 and self._answered - self._started > SEARCH_LIMIT.total_seconds():
            raise self.exceeded(f"not finished after {SEARCH_LIMIT.total_seconds():g} s")

    def restart(self) -> None:
        """Give the other requests their time, after one took all of it."""
        self._started = self._answered = time.monotonic()

    def has_answers_within(self, limit: timedelta) -> bool:
        """Whether a smaller batch may succeed: the database has answered just now, and this is not the smallest."""
        if self._requests == 1 or self._answered is None:
            return False
        return time.monotonic() - self._answered <= limit.total_seconds()

    def exceeded(self, reason: str) -> BatchTooLarge:
        return BatchTooLarge(f"The batch of {self._requests} requests takes too long: {reason}.")
