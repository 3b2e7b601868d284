"""The benchmark of confirming on a real Temporal: the shape of its answer, not its figures."""

from pathlib import Path

import pytest
from temporalio.client import Client

from tests.support.bench_runs import bench, figures_of
from write_batcher.bench.confirm_plan import CONCURRENCIES, MODES
from write_batcher.bench.floors import plain_confirm
from write_batcher.bench.waiting_callers import WaitingCallers
from write_batcher.errors import WrongWork
from write_batcher.models import ConfirmBy, Outcome, WriteReceipt
from write_batcher.workers.embedded.temporal_server import NAMESPACE, TemporalServer

UNIT_FIGURES = {"confirmations_per_s", "cpu_us_per_confirmation", "temporal_cpu_us_per_confirmation"}

pytestmark = pytest.mark.thorough  # these measure for many seconds


async def test_bench_confirm_compares_both_modes(tmp_path: Path) -> None:
    results = await bench(tmp_path / "out", "confirm", "--rounds", "1", "--callers", "12", "--batch-size", "5")
    assert list(results["groups"]) == ["signal", "completion"]
    for duel in results["groups"].values():
        ours, theirs = figures_of(duel)
        assert ours == {*UNIT_FIGURES, "redis_cpu_us_per_confirmation"}
        assert theirs == UNIT_FIGURES
        assert len(duel["floors"]) == len(CONCURRENCIES)
    assert "Temporal server" in results["versions"]


@pytest.mark.parametrize("mode", MODES)
async def test_callers_know_how_many_receipts_have_arrived(mode: ConfirmBy, tmp_path: Path) -> None:
    async with TemporalServer(tmp_path, in_memory=True) as server:
        client = await Client.connect(server.address, namespace=NAMESPACE)
        callers = await WaitingCallers.start(client, mode, 3)
        await callers.check(receipts_each=0)
        receipt = WriteReceipt(request_id="order-1", outcome=Outcome.WRITTEN)
        await plain_confirm.confirm(client, [(callers.addresses[0], receipt)], at_once=2)
        with pytest.raises(WrongWork, match="2 of 3 callers have another number of receipts than 1, for instance 0"):
            await callers.check(receipts_each=1)
        await callers.end()
