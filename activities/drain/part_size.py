"""How many requests a sink is given at once."""

GROW_AFTER = 10  # parts in a row that were written in time; each try to grow too early costs a timeout


class PartSize:
    """All of a batch; fewer after the sink could not write so many in time, and then slowly more again."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._in_time = 0

    def limit(self, batch_size: int) -> int:
        """Return how many of a batch may be written at once."""
        return batch_size if self._most is None else min(self._most, batch_size)

    def too_large(self, size: int) -> None:
        """Note that so many could not be written in time."""
        self._most, self._in_time = max(1, size // 2), 0

    def written(self, size: int) -> None:
        """Note that so many were written in time."""
        if self._most is None or size < self._most:
            return
        self._in_time += 1
        if self._in_time >= GROW_AFTER:
            self._most, self._in_time = self._most + max(1, self._most // 10), 0
