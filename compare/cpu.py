"""CPU seconds of processes with all that they started."""

import contextlib
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Used so far by these processes and their descendants, also by those that have ended: read it before these end."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    # What its own children used counts as theirs until it has waited for their end, and then as its.
                    total += times.user + times.system + times.children_user + times.children_system
    return total
