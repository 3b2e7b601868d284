"""The benchmark of the recovery with real processes and a short heartbeat timeout."""

import pytest

from write_batcher.bench.recovery_benchmark import measure_recovery
from write_batcher.bench.recovery_plan import RecoveryPlan

HEARTBEAT_S = 3
SLACK_S = 30  # on a machine that is busy

pytestmark = pytest.mark.thorough  # these measure for many seconds


async def test_recovery_takes_about_the_heartbeat_timeout() -> None:
    phrases: list[str] = []
    results = await measure_recovery(RecoveryPlan(rounds=1, heartbeats_s=(HEARTBEAT_S,)), phrases.append)
    assert len(phrases) == 2
    duel = results.groups[f"{HEARTBEAT_S} s"]
    for figures in (duel.ours, duel.floors["bare activity"]):
        assert 0 < figures["recovery_s"].median < HEARTBEAT_S + SLACK_S
