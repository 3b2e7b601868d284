"""What the drain does beside its stages: prune the ledger, and retire when its partition is no longer needed."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.drain_stage import EMPTY, BreakableSink, Stage
from tests.support.waiting import eventually
from write_batcher.activities.drain import loop as loop_module
from write_batcher.models import DrainEnd


class LedgerSink(BreakableSink):
    def __init__(self) -> None:
        super().__init__()
        self.pruned: list[tuple[timedelta, datetime | None]] = []

    async def prune(self, older_than: timedelta, *, now: datetime | None = None) -> int:
        self.pruned.append((older_than, now))
        return 0


async def test_ledger_is_pruned_by_the_clock_of_redis(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.sink = sink = LedgerSink()
    at = datetime(2020, 1, 2, tzinfo=UTC)

    async def now_ms() -> int:
        return round(at.timestamp() * 1000)

    monkeypatch.setattr(stage.queue, "now_ms", now_ms)
    async with stage.draining():
        await eventually(lambda: len(sink.pruned) == 1)
    [(older_than, now)] = sink.pruned
    assert now == at
    assert older_than > timedelta(days=7)


async def test_surplus_partition_retires_when_it_is_empty(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "RETIRE_AFTER", timedelta(milliseconds=50))
    stage.configured_partitions = 0
    await stage.append("a")
    async with stage.draining() as running:
        assert (await running.end()).end is DrainEnd.RETIRED
    assert await stage.counts() == EMPTY


async def test_surplus_partition_does_not_retire_while_its_batch_is_held(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "RETIRE_AFTER", timedelta(milliseconds=50))
    stage.configured_partitions = 0
    stage.sink.outage = "database is away"
    await stage.append("a")
    async with stage.draining() as running:
        await eventually(lambda: stage.sink.attempts >= 10)
        stage.sink.outage = None
        assert (await running.end()).end is DrainEnd.RETIRED
    assert stage.sink.row_ids == ["a"]
    assert await stage.counts() == EMPTY
