"""How a drain ends: stopped, expired, stalled, or by an error. What it has not finished stays pending."""

import asyncio
from datetime import timedelta

import pytest
from google.protobuf.any_pb2 import Any
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from tests.support.drain_stage import EMPTY, NEVER, WITHIN_S, Answers, Stage
from tests.support.waiting import eventually
from write_batcher.activities.drain import (
    loop as loop_module,
    target as target_module,
)
from write_batcher.errors import ConfigurationError, StageStalled
from write_batcher.models import Batch, DrainEnd, FlushReason


async def test_stop_writes_confirms_and_acknowledges_what_is_in_flight(stage: Stage) -> None:
    stage.max_wait = NEVER
    await stage.append("a")
    async with stage.draining() as running:
        await eventually(lambda: running.drain.details().in_flight == 1)
        result = await running.stop()
    assert result.end is DrainEnd.STOPPED
    assert (result.progress.written, result.progress.confirmed, result.progress.in_flight) == (1, 1, 0)
    assert stage.sink.reasons == [FlushReason.STOP]
    assert await stage.counts() == EMPTY


async def test_stop_of_an_idle_drain_writes_nothing(stage: Stage) -> None:
    async with stage.draining() as running:
        await eventually(lambda: stage.redis.exists(stage.queue.stream_key))
        assert (await running.stop()).progress.batches == 0
    assert stage.sink.attempts == 0


async def test_drain_returns_when_its_time_is_over(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "DRAIN_FOR", timedelta(milliseconds=50))
    async with stage.draining() as running:
        assert (await running.end()).end is DrainEnd.EXPIRED


async def test_commit_that_has_begun_is_awaited_when_the_drain_is_cancelled(stage: Stage) -> None:
    committing, committed = asyncio.Event(), asyncio.Event()
    write = stage.sink.write

    async def slow_write(batch: Batch) -> Answers:
        committing.set()
        await committed.wait()
        return await write(batch)

    stage.sink.write = slow_write  # type: ignore[method-assign]
    await stage.append("a")
    task = asyncio.create_task(ActivityEnvironment().run(stage.drain().run))
    async with asyncio.timeout(WITHIN_S):
        await committing.wait()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=0.1)
        assert not done
        committed.set()
        await asyncio.wait({task})
    assert stage.sink.row_ids == ["a"]
    assert (await stage.statistics()).pending == 1


async def test_missing_namespace_ends_the_drain_with_nothing_acknowledged(stage: Stage) -> None:
    detail = Any()
    detail.Pack(NamespaceNotFoundFailure(namespace="fake"))
    status = GrpcStatus(code=RPCStatusCode.NOT_FOUND.value, details=[detail]).SerializeToString()
    stage.temporal.fail("a", RPCError("namespace not found", RPCStatusCode.NOT_FOUND, status))
    await stage.append("a", "b")
    error = await stage.failure()
    assert isinstance(error, ConfigurationError)
    assert "no namespace 'fake'" in str(error)
    assert (await stage.statistics()).backlog == 2


async def test_write_that_hangs_stalls_the_drain(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "WRITE_LIMIT", timedelta(milliseconds=50))
    monkeypatch.setattr(target_module, "GIVE_UP_WITHIN", timedelta(milliseconds=50))
    stage.sink.hangs = True
    await stage.append("a")
    error = await stage.failure()
    assert isinstance(error, StageStalled)
    assert "writing a batch" in str(error)
    assert (await stage.statistics()).backlog == 1


@pytest.mark.parametrize("task_name", ["heartbeat", "read", "take", "retry", "write", "confirm", "operators", "expiry"])
async def test_drain_ends_when_one_of_its_tasks_is_cancelled(stage: Stage, task_name: str) -> None:
    stage.sink.outage = "away"
    await stage.append("a")
    async with stage.draining() as running:
        running.crashed = True
        await eventually(lambda: stage.sink.attempts)
        [task] = [task for task in asyncio.all_tasks() if task.get_name() == task_name]
        task.cancel()
        with pytest.raises(StageStalled, match=f"The drain's task '{task_name}' was cancelled from outside"):
            await running.end()
    assert (await stage.statistics()).pending == 1
