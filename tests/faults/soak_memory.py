"""How much memory processes and Redis take during a soak."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field

OURS = ("main worker", "batcher worker", "data in Redis")
GROWTH_MB = 10.0  # in a third of the quiet time; what leaks a kilobyte per write takes more in ten minutes


@dataclass
class Memory:
    """Megabytes by name of process, or of the data in Redis: while nothing is broken, and later."""

    quiet: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    later: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def note(self, name: str, used_bytes: int, *, quiet: bool) -> None:
        (self.quiet if quiet else self.later)[name].append(used_bytes / 1e6)

    def check(self) -> None:
        """Raises AssertionError when something of ours grew in the quiet time, after it had warmed up."""
        grown = {name: self._middle_and_end(name) for name in OURS}
        leaking = {name: pair for name, pair in grown.items() if pair[1] - pair[0] > GROWTH_MB}
        assert not leaking, f"memory grew: {leaking}"

    def __str__(self) -> str:
        peaks = {name: max(self.quiet[name] + self.later[name]) for name in sorted({*self.quiet, *self.later})}
        growth = {name: self._middle_and_end(name) for name in sorted(self.quiet)}
        return (
            f"peak memory in MB: {', '.join(f'{name} {peak:.0f}' for name, peak in peaks.items())}\n"
            "while nothing was broken, median of the second third -> of the last, in MB: "
            + ", ".join(f"{name} {middle:.1f} -> {end:.1f}" for name, (middle, end) in growth.items())
        )

    def _middle_and_end(self, name: str) -> tuple[float, float]:
        samples = self.quiet[name]
        third = max(len(samples) // 3, 1)
        return statistics.median(samples[third : 2 * third] or samples), statistics.median(samples[-third:])
