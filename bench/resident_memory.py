"""The memory of a process while it works through a stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from write_batcher.errors import WrongWork

MIB = 1024**2
WARM_AFTER_SHARE = 0.1  # of the requests: by then everything is imported, and all stages are busy
MOST_GROWTH_MIB = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """Resident memory in MiB."""

    first: float
    """When `WARM_AFTER_SHARE` of the requests had been written."""
    highest: float
    last: float

    @classmethod
    def of(cls, points: Sequence[tuple[int, int]], requests: int) -> Self:
        """`points`: how many requests had been written, and the bytes at that moment, in the order of time.

        Raises `WrongWork` without any points.
        """
        if not points:
            raise WrongWork(
                f"The drain of {requests} requests ended before its memory was looked at: measure more (--requests)."
            )
        warm = [size for written, size in points if written >= requests * WARM_AFTER_SHARE]
        sizes = [size for _, size in points]
        return cls(first=(warm or sizes[-1:])[0] / MIB, highest=max(sizes) / MIB, last=sizes[-1] / MIB)

    def check_flat(self) -> None:
        """Raise `WrongWork` when it grew by more than `MOST_GROWTH_MIB` from the first to the highest."""
        if self.highest - self.first > MOST_GROWTH_MIB:
            raise WrongWork(
                f"The memory of the drain grew from {self.first:.0f} to {self.highest:.0f} MiB, by more than the "
                f"{MOST_GROWTH_MIB} MiB that requests in flight may take."
            )

    def readings(self) -> dict[str, float]:
        """Return the figures by name."""
        return {"highest_rss_mib": self.highest, "first_rss_mib": self.first, "last_rss_mib": self.last}
