"""How busy the other programs keep the machine while something is measured."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import psutil  # type: ignore[import-untyped]

from write_batcher.bench.duel_figures import Readings
from write_batcher.bench.sample import Servers
from write_batcher.compare.cpu import cpu_seconds

OTHER_CORES = "other_cores"
"""The name of a figure: cores that other programs used, on average, while the others were measured."""

THREADS = Path("/proc/self/task")
NANOSECONDS = 1_000_000_000  # in a second
QUIET_CORES = 0.1
IDLE = ("idle", "iowait")
COUNTED_TWICE = ("guest", "guest_nice")  # in `user` and `nice` too


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPrograms:
    """Counts from `begin` on; the fields are the readings at its beginning."""

    servers: Servers
    at: float
    others_s: float

    @classmethod
    def begin(cls, servers: Servers) -> Self:
        """Start counting the CPU time of everything but this process and `servers`."""
        return cls(servers=servers, at=time.perf_counter(), others_s=_others_s(servers))

    def cores(self) -> float:
        """Return how many cores they have used since `begin`, on average; time that a hypervisor took is theirs."""
        return max(_others_s(self.servers) - self.others_s, 0.0) / (time.perf_counter() - self.at)


def core_wait_s() -> float:
    """Return for how long the threads of this process have been ready to run so far, and all cores were taken, in
    seconds; always 0 where the system does not tell it, which only Linux does.
    """
    waited_ns = 0
    for thread in THREADS.iterdir() if THREADS.exists() else ():
        with suppress(OSError):  # it has ended, or the kernel does not count
            _ran_ns, ready_ns, _times = (thread / "schedstat").read_text().split()
            waited_ns += int(ready_ns)
    return waited_ns / NANOSECONDS


def _others_s(servers: Servers) -> float:
    times = psutil.cpu_times()._asdict()
    busy_s = sum(seconds for name, seconds in times.items() if name not in (*IDLE, *COUNTED_TWICE))
    return float(busy_s - cpu_seconds(servers.values()) - time.process_time())


def quiet_median(rounds: Sequence[Readings], figure: str) -> float:
    """Return the median of a figure over the quiet rounds, whatever was measured in them: those in which other programs
    used at most `QUIET_CORES` more than in the quietest.
    """
    quietest = min(one[OTHER_CORES] for one in rounds)
    return median(one[figure] for one in rounds if one[OTHER_CORES] <= quietest + QUIET_CORES)
