"""One measurement: how long a number of pieces of work took, and the CPU time of everything that took part."""

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from write_batcher.compare.cpu import cpu_seconds

MICROSECONDS = 1_000_000  # in a second

Servers = Mapping[str, int]
"""The process ids of the servers that a run uses, by `redis`, `database`, `temporal`. SQLite has no process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one run took."""

    count: int
    """Pieces of work: rows, appends, confirmations."""
    seconds: float
    cpu_s: float
    """Of this process with all its threads, user and system. SQLite runs in it, so its time is in here."""
    servers_cpu_s: Mapping[str, float]
    """Of the servers with all their processes, by name."""

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    def readings(self, unit: str) -> dict[str, float]:
        """Return the figures, named after one piece of work: `row`."""
        found = {f"{unit}s_per_s": self.per_s, f"cpu_us_per_{unit}": self.cpu_s / self.count * MICROSECONDS}
        servers = self.servers_cpu_s.items()
        return found | {f"{name}_cpu_us_per_{unit}": cpu_s / self.count * MICROSECONDS for name, cpu_s in servers}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopwatch:
    """Measures from `begin` to `end`; the fields are the readings at its beginning."""

    servers: Servers
    servers_cpu_s: Mapping[str, float]
    cpu_s: float
    at: float

    @classmethod
    def begin(cls, servers: Servers) -> Self:
        """Start measuring, without the garbage of earlier runs. Our own readings come last, because the others take
        some time.
        """
        gc.collect()
        return cls(
            servers=servers,
            servers_cpu_s=_cpu_of(servers),
            cpu_s=time.process_time(),
            at=time.perf_counter(),
        )

    def end(self, count: int) -> Sample:
        """Return what `count` pieces of work took since `begin`. Our own readings come first."""
        seconds = time.perf_counter() - self.at
        cpu_s = time.process_time() - self.cpu_s
        now = _cpu_of(self.servers)
        return Sample(
            count=count,
            seconds=seconds,
            cpu_s=cpu_s,
            servers_cpu_s={name: now[name] - before for name, before in self.servers_cpu_s.items()},
        )


def _cpu_of(servers: Servers) -> dict[str, float]:
    return {name: cpu_seconds([pid]) for name, pid in servers.items()}
