"""What a drain has done so far, for its heartbeat and for the monitor."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from write_batcher.models import DrainProgress
from write_batcher.queue.latencies import latency_counter


class Progress:
    """The counts of one drain, shared by its stages."""

    def __init__(self) -> None:
        self._counts = DrainProgress()
        self._tallies: Counter[str] = Counter()
        self.holding: str | None = None
        """Why the sink is waited for; None when it is not."""

    def count(self, **more: int) -> None:
        """Add to the counts in the heartbeat."""
        totals = {name: getattr(self._counts, name) + number for name, number in more.items()}
        self._counts = replace(self._counts, **totals)

    def tally(self, more: Mapping[str, int]) -> None:
        """Add to what the partition's counters in Redis are to be raised by."""
        self._tallies.update(more)

    def tally_latency(self, name: str, ms: int) -> None:
        """Tally one value in the partition's histogram `name`."""
        self._tallies[latency_counter(name, ms)] += 1

    def take_tallies(self) -> dict[str, int]:
        """Return what was tallied since the last call."""
        taken, self._tallies = self._tallies, Counter()
        return dict(taken)

    def snapshot(self, *, in_flight: int, held: int, full: str | None, throttled: str | None) -> DrainProgress:
        """Return the counts at this moment; `full` is why nothing more is taken, `throttled` why less is written."""
        return replace(self._counts, in_flight=in_flight, held=held, holding=self.holding or full, throttled=throttled)
