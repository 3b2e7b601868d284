"""What a drain has done so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from write_batcher.models import DrainProgress
from write_batcher.queue.latencies import latency_counter


class Progress:
    """Counts for the heartbeat's details; shared by the stages of one drain."""

    def __init__(self) -> None:
        self._counts = DrainProgress()
        self._tallies: Counter[str] = Counter()
        self.holding: str | None = None
        """Why the current batch cannot be written right now, if so."""

    def count(self, **more: int) -> None:
        """Add to the counts of these names."""
        totals = {name: getattr(self._counts, name) + number for name, number in more.items()}
        self._counts = replace(self._counts, **totals)

    def tally(self, more: Mapping[str, int]) -> None:
        """Add to the partition's counters in Redis, when the time comes."""
        self._tallies.update(more)

    def tally_latency(self, name: str, ms: int) -> None:
        """Add one to the partition's histogram `name`."""
        self._tallies[latency_counter(name, ms)] += 1

    def take_tallies(self) -> dict[str, int]:
        """What has been tallied since the last time."""
        taken, self._tallies = self._tallies, Counter()
        return dict(taken)

    def snapshot(self, *, in_flight: int) -> DrainProgress:
        """The counts at this moment."""
        return replace(self._counts, in_flight=in_flight, holding=self.holding)
