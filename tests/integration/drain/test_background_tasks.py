"""What the drain does beside its stages: prune the ledger, follow the contract, retire."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.drain_stage import EMPTY, BreakableSink, Stage
from tests.support.fakes import contract_of
from tests.support.waiting import eventually
from write_batcher.activities.drain import housekeeping
from write_batcher.errors import TablesUnknown, WrongSink
from write_batcher.models import DrainEnd


class LedgerSink(BreakableSink):
    def __init__(self) -> None:
        super().__init__()
        self.pruned: list[datetime | None] = []

    async def prune(self, *, now: datetime | None = None) -> int:
        self.pruned.append(now)
        return 0


async def test_ledger_is_pruned_by_the_clock_of_redis(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.sink = sink = LedgerSink()
    at = datetime(2020, 1, 2, tzinfo=UTC)

    async def now_ms() -> int:
        return round(at.timestamp() * 1000)

    monkeypatch.setattr(stage.queue, "now_ms", now_ms)
    async with stage.draining():
        await eventually(lambda: len(sink.pruned) == 1)
    assert sink.pruned == [at]


async def test_ledger_that_cannot_be_pruned_stops_nobody(stage: Stage) -> None:
    class UnprunableSink(LedgerSink):
        async def prune(self, *, now: datetime | None = None) -> int:
            raise ZeroDivisionError

    stage.sink = UnprunableSink()
    await stage.append("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]


async def test_dead_letters_that_are_too_old_are_deleted(stage: Stage) -> None:
    await stage.redis.xadd(stage.queue.dead_key, {"id": "old"}, id="1000-0")
    async with stage.draining():
        await eventually(stage.has_no_dead_letters)


async def test_surplus_partition_retires_when_it_is_empty(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "RETIRE_AFTER", timedelta(milliseconds=50))
    stage.partitions = 0
    await stage.append("a")
    async with stage.draining() as running:
        assert (await running.end()).end is DrainEnd.RETIRED
    assert await stage.counts() == EMPTY


async def test_surplus_partition_does_not_retire_while_its_batch_is_held(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "RETIRE_AFTER", timedelta(milliseconds=50))
    stage.partitions = 0
    stage.sink.outage = "database is away"
    await stage.append("a")
    async with stage.draining() as running:
        await eventually(lambda: stage.sink.attempts >= 10)
        stage.sink.outage = None
        assert (await running.end()).end is DrainEnd.RETIRED
    assert stage.sink.row_ids == ["a"]
    assert await stage.counts() == EMPTY


async def test_drain_of_another_sink_ends_and_writes_nothing(stage: Stage) -> None:
    stage.contract = replace(contract_of(stage.sink), sink_id="another")
    await stage.append("a")
    error = await stage.failure()
    assert isinstance(error, WrongSink)
    assert "written to the sink 'another', and this worker's is 'memory'" in str(error)
    assert stage.sink.attempts == 0


async def test_drain_whose_batcher_was_started_for_another_sink_ends(stage: Stage) -> None:
    stage.started_for = "another"
    assert isinstance(await stage.failure(), WrongSink)


async def test_drain_that_does_not_know_all_tables_leaves_them_to_another(stage: Stage) -> None:
    stage.sink = BreakableSink(tables={"orders": "insert"})
    async with stage.draining() as running:
        running.crashed = True
        await stage.append("a")
        await eventually(stage.is_empty)
        stage.contract = replace(contract_of(stage.sink), tables={"orders": "insert", "items": "insert"})
        with pytest.raises(TablesUnknown, match="does not know the tables items of its queue"):
            await running.end()
