"""How much memory processes and Redis take during a soak."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field

LEAK_BYTES = 4_000  # per write; less is lost in what Python's memory goes up and down by
NOISE_MB = 3.0
WRITES_TO_JUDGE = 300  # a soak of a few minutes makes fewer, while workers still warm up
WORKERS = ("main worker", "batcher worker")
WORKERS_OF_A_ROLE = 2  # which share the writes
REDIS = "data in Redis"
REDIS_GROWTH_MB = 2.0  # over the whole soak; dead letters stay


@dataclass(frozen=True, slots=True)
class Sample:
    mb: float
    writes: int
    """That had been made by then."""


@dataclass
class Memory:
    """Samples by name of process, or of the data in Redis: while nothing is broken, and later."""

    quiet: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    later: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def note(self, name: str, used_bytes: int, *, writes: int, quiet: bool) -> None:
        (self.quiet if quiet else self.later)[name].append(Sample(used_bytes / 1e6, writes))

    def check(self) -> None:
        """Raises AssertionError when workers grew in the quiet time, after they had warmed up, or Redis until the end,
        when its streams are empty. A short soak cannot tell of workers.
        """
        for name in WORKERS:
            grown_mb, writes = self._growth(name)
            if writes < WRITES_TO_JUDGE:
                continue
            limit_mb = max(NOISE_MB, LEAK_BYTES * writes / WORKERS_OF_A_ROLE / 1e6)
            assert grown_mb < limit_mb, f"a {name} grew by {grown_mb:.1f} MB in {writes} writes"
        before, after = max(sample.mb for sample in self.quiet[REDIS]), self.later[REDIS][-1].mb
        assert after < before + REDIS_GROWTH_MB, f"{REDIS} grew from {before:.1f} to {after:.1f} MB"

    def _growth(self, name: str) -> tuple[float, float]:
        """Megabytes, and writes, from the second third of the quiet time to the last."""
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
