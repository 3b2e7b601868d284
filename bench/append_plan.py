"""What a benchmark of appending is to measure."""

from dataclasses import dataclass

AT_ONCE = 100
"""Requests in one exchange with Redis, where many are appended at once."""

CONTESTANTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendPlan:
    """How much is appended, and by how many."""

    rounds: int
    requests: int
    """In each measurement."""
    tasks: int
    """Callers at once, on one client."""

    @property
    def measurements(self) -> int:
        return self.rounds * CONTESTANTS
