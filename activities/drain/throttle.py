"""How much is written at once, and how often, when transactions should take no longer than a target latency."""

GROW = 0.05  # of the configured batch size, after each transaction that was in time: additive increase
GROW_AT_MOST = 0.2  # of the present size, so that small ones are not exceeded by far; but by one request at least
SHRINK = 0.7  # of the batch that took too long: multiplicative decrease
LONGEST_REST = 9.0  # times as long as the transaction before, so that a tenth of the time is used at least
LONGEST_REST_S = (
    10.0  # also after a transaction that stood still: a target that is well again is not left alone for long
)
FIRST_REST = 0.5
LESS_REST = 0.25
REMEMBERED = 0.9  # of what is known of the transactions before, after each new one
FIXED_SHARE = 0.8  # of the target latency: what takes so long without any request is not helped by fewer of them
ALIKE = 0.01  # sizes that differ less tell nothing about what a request costs


class Throttle:
    """Additive increase and multiplicative decrease, first of the batch size, and of the pace where that does not help.

    A transaction takes some time for each request, and some that does not depend on them: a round trip, a lock, what
    others do to the database. Smaller batches shorten the first part; against the second one only resting helps. Which
    it is tells the straight line through the latest transactions.
    """

    def __init__(self, target_s: float) -> None:
        self.target_s = target_s
        """How long a transaction should take at most."""
        self._most: float | None = None  # requests; None: as many as there may be
        self._rest = 0.0  # times as long as the latest transaction
        self._line = _Line()

    def limit(self, size: int) -> int:
        """Return how many of so many requests may be written at once."""
        return size if self._most is None else max(1, min(size, int(self._most)))

    def took(self, requests: int, seconds: float, *, max_items: int) -> float:
        """Note how long a transaction took; returns for how many seconds the next one is to be put off. `max_items` is
        the configured size of a batch.
        """
        self._line.add(requests, seconds)
        if seconds <= self.target_s:
            self._ease(requests, max_items)
        elif self._line.fixed_s >= FIXED_SHARE * self.target_s:
            self._rest_more()
            self._grow(max_items)  # larger batches make up for fewer of them
        elif requests > 1:
            self._most = max(1.0, SHRINK * requests)
        else:
            self._rest_more()
        return min(self._rest * seconds, LONGEST_REST_S)

    def __str__(self) -> str:
        """What it does, for operators; empty when it does nothing."""
        size = "" if self._most is None else f"batches of {int(self._most)}"
        rest = f"a rest {self._rest:g} times as long as each" if self._rest else ""
        return " and ".join(part for part in (size, rest) if part)

    def _ease(self, requests: int, max_items: int) -> None:
        if self._rest:
            self._rest = max(0.0, self._rest - LESS_REST)
        elif self._most is not None and requests >= int(self._most):
            self._grow(max_items)

    def _rest_more(self) -> None:
        self._rest = min(LONGEST_REST, max(FIRST_REST, 2 * self._rest))

    def _grow(self, max_items: int) -> None:
        if self._most is not None:
            more = self._most + max(1.0, min(GROW * max_items, GROW_AT_MOST * self._most))
            self._most = more if more < max_items else None


class _Line:
    """The straight line through the latest transactions: seconds by number of requests."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._requests = 0.0
        self._seconds = 0.0
        self._squares = 0.0
        self._products = 0.0

    def add(self, requests: int, seconds: float) -> None:
        self._weight = REMEMBERED * self._weight + 1
        self._requests = REMEMBERED * self._requests + requests
        self._seconds = REMEMBERED * self._seconds + seconds
        self._squares = REMEMBERED * self._squares + requests * requests
        self._products = REMEMBERED * self._products + requests * seconds

    @property
    def fixed_s(self) -> float:
        """Seconds that a transaction without any request would take; 0 while all were about equally large."""
        spread = self._weight * self._squares - self._requests**2
        if spread < ALIKE * self._weight * self._squares:
            return 0.0
        per_request = max(0.0, (self._weight * self._products - self._requests * self._seconds) / spread)
        return max(0.0, (self._seconds - per_request * self._requests) / self._weight)
