"""The benchmark of the memory with real processes: the shape of its answer, not its figures."""

from pathlib import Path

import pytest

from tests.support.bench_runs import bench, figures_of

pytestmark = pytest.mark.thorough  # these measure for many seconds


async def test_bench_memory_looks_at_both_processes(tmp_path: Path) -> None:
    results = await bench(tmp_path / "out", "memory", "--requests", "3000")
    duel = results["groups"]["drain"]
    ours, theirs = figures_of(duel)
    assert ours == theirs == {"highest_rss_mib", "first_rss_mib", "last_rss_mib"}
    assert duel["ours"]["highest_rss_mib"]["median"] >= duel["ours"]["first_rss_mib"]["median"] > 10
