"""CPU seconds of processes, including everything that they started."""

import contextlib
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds used so far by these processes and their descendants, including descendants that ended.

    Call it while the processes run: one that has ended counts as zero.
    """
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    # The system adds the time of a child to `children_*` of its parent once the parent has reaped it.
                    total += times.user + times.system + times.children_user + times.children_system
    return total
