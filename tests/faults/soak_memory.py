"""How much memory processes and Redis take during a soak."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field

LEAK_BYTES = 4_000  # per write; a smaller leak is hidden by the ups and downs of Python's memory
NOISE_MB = 3.0
MIN_WRITES = 300  # a soak of a few minutes makes fewer, while workers still warm up
WORKERS = ("main worker", "batcher worker")
WORKERS_PER_ROLE = 3  # at least, which share the writes: one for each queue
REDIS = "data in Redis"
MAX_REDIS_GROWTH_MB = 2.0  # over the whole soak; dead letters stay


@dataclass(frozen=True, slots=True)
class Sample:
    mb: float
    writes: int
    """Made until then."""


@dataclass
class Memory:
    """Samples by process name, or `REDIS`: while nothing is broken, and later."""

    quiet: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    later: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def note(self, name: str, used_bytes: int, *, writes: int, quiet: bool) -> None:
        (self.quiet if quiet else self.later)[name].append(Sample(used_bytes / 1e6, writes))

    def check(self) -> None:
        """Fail if workers grew in the quiet time after warming up, or Redis until the end, when its streams are empty.

        A soak too short for `MIN_WRITES` does not judge workers.
        """
        for name in WORKERS:
            grown_mb, writes = self._growth(name)
            if writes < MIN_WRITES:
                continue
            limit_mb = max(NOISE_MB, LEAK_BYTES * writes / WORKERS_PER_ROLE / 1e6)
            assert grown_mb < limit_mb, f"a {name} grew by {grown_mb:.1f} MB in {writes} writes"
        before, after = max(sample.mb for sample in self.quiet[REDIS]), self.later[REDIS][-1].mb
        assert after < before + MAX_REDIS_GROWTH_MB, f"{REDIS} grew from {before:.1f} to {after:.1f} MB"

    def _growth(self, name: str) -> tuple[float, float]:
        """Megabytes and writes by which the last third of the quiet time exceeds the second."""
        samples = self.quiet[name]
        third = max(len(samples) // 3, 1)
        thirds = samples[third : 2 * third] or samples, samples[-third:]
        (mb, writes), (last_mb, last_writes) = (
            (statistics.median(one.mb for one in part), statistics.median(one.writes for one in part))
            for part in thirds
        )
        return last_mb - mb, last_writes - writes

    def __str__(self) -> str:
        names = sorted({*self.quiet, *self.later})
        peaks = {name: max(sample.mb for sample in self.quiet[name] + self.later[name]) for name in names}
        growth = {name: self._growth(name) for name in names if self.quiet[name]}
        return (
            f"peak memory in MB: {', '.join(f'{name} {peak:.0f}' for name, peak in peaks.items())}\n"
            "growth while nothing was broken, from the second third to the last: "
            + ", ".join(f"{name} {mb:+.1f} MB in {writes:.0f} writes" for name, (mb, writes) in growth.items())
        )
