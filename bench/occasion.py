"""When a benchmark began and what it ran on, for its results."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.duel_figures import Duel


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """One run of a benchmark; make it before the servers are started."""

    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    began: float = field(default_factory=time.monotonic)

    def results(
        self,
        benchmark: str,
        *,
        case: str = "",
        rounds: int,
        settings: Mapping[str, int],
        grouped_by: str,
        groups: Mapping[str, Duel],
        notes: Sequence[str],
        machine: dict[str, str],
        versions: dict[str, str],
    ) -> BenchResults:
        """Return the results, which took as long as this occasion has lasted so far."""
        return BenchResults(
            benchmark=benchmark,
            case=case,
            started_at=self.started_at,
            seconds=time.monotonic() - self.began,
            rounds=rounds,
            settings=settings,
            notes=list(notes),
            grouped_by=grouped_by,
            groups=groups,
            machine=machine,
            versions=versions,
        )
