"""The benchmark of partitions on a real Valkey and SQLite: the shape of its answer, not its figures."""

from pathlib import Path

import pytest

from tests.support.bench_runs import bench, figures_of

pytestmark = pytest.mark.thorough  # these measure for many seconds


async def test_bench_partitions_compares_each_number_with_one(tmp_path: Path) -> None:
    results = await bench(
        *(tmp_path / "out", "partitions", "--database", "sqlite"),
        *("--rounds", "1", "--requests", "245", "--batch-size", "20"),
    )
    assert list(results["groups"]) == ["sqlite, 2 partitions", "sqlite, 4 partitions", "sqlite, 8 partitions"]
    assert results["settings"]["requests"] == 240  # the same number in each
    for duel in results["groups"].values():
        assert duel["floor"] == "1 partition"
        assert figures_of(duel)[0] == {"rows_per_s", "cpu_us_per_row", "redis_cpu_us_per_row", "evenness"}
        assert 0 < duel["ours"]["evenness"]["median"] <= 1
        assert duel["floors"]["1 partition"]["evenness"]["median"] == 1
