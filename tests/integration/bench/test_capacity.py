"""The capacity model on real servers: the shape of its measurements, not their figures."""

import json
from pathlib import Path

import pytest

from tests.support.command import run_command
from write_batcher.bench.capacity_plan import COST_BATCH_SIZES, MOST_DEVIATION_PERCENT, PARTITIONS, SHARED_BY_ALL

pytestmark = pytest.mark.thorough  # these measures for a minute


async def test_bench_capacity_check_compares_each_prediction_with_its_measurement(tmp_path: Path) -> None:
    status, output, errors = await run_command(
        *("bench", "capacity", "--check", "--rounds", "1", "--requests", str(SHARED_BY_ALL)),
        *("--json", "--out", str(tmp_path)),
        within_s=110,
    )
    found = json.loads(output)
    assert json.loads((tmp_path / "capacity-check.json").read_text()) == found
    checked = found["checked"]
    assert [(one["partitions"], one["batch_size"]) for one in checked] == [
        (partitions, size) for size in COST_BATCH_SIZES for partitions in PARTITIONS
    ]
    assert all(one["predicted_rows_per_s"] > 0 and one["measured_rows_per_s"] > 0 for one in checked)
    # So little is chance: the status must agree with what was found, whatever that is.
    worst = max(abs(one["deviation_percent"]) for one in checked)
    assert status == (1 if worst > MOST_DEVIATION_PERCENT else 0), errors
