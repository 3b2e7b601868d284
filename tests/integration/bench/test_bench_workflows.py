"""The benchmarks of whole workflows on real servers: the shape of their answers, not their figures."""

from pathlib import Path

import pytest

from tests.support.bench_runs import bench, figures_of

pytestmark = pytest.mark.thorough  # these measure for many seconds


@pytest.mark.parametrize(
    ("name", "compared", "arguments"),
    [("latency", "p50_ms", ("--at-once", "3")), ("end-to-end", "writes_per_s", ())],
    ids=["latency", "end-to-end"],
)
async def test_bench_of_workflows_compares_with_direct(
    name: str, compared: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    common = ("--database", "sqlite", "--rounds", "1", "--workflows", "7")
    results = await bench(tmp_path / "out", name, *common, *arguments)
    assert list(results["groups"]) == ["sqlite, signal", "sqlite, completion"]
    for duel in results["groups"].values():
        assert (duel["floor"], duel["compared"]) == ("direct", compared)
        ours, theirs = figures_of(duel)
        assert ours == theirs == {"writes_per_s", "p50_ms", "p99_ms", "cpu_ms_per_write"}
    assert {"Temporal server", "Valkey", "SQLite"} <= results["versions"].keys()
