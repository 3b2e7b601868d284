"""After a crash or an outage, entries are redelivered, written once and confirmed."""

from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support.drain_stage import Stage, stage_on
from tests.support.proxy import Proxy
from tests.support.redis_kinds import AnyRedis
from tests.support.waiting import eventually
from write_batcher.activities.drain import read
from write_batcher.models import Outcome
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import HOST


async def test_commit_precedes_confirmation_and_confirmation_acknowledgement(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    acknowledge = stage.queue.acknowledge

    async def acknowledging(entries: list[tuple[StreamEntry, str | None]]) -> int:
        seen.append(f"{len(stage.sink.rows)} written, {len(stage.temporal.signals)} confirmed")
        return await acknowledge(entries)

    monkeypatch.setattr(stage.queue, "acknowledge", acknowledging)
    await stage.append("a")
    stage.temporal.hold("a")
    async with stage.draining():
        await eventually(lambda: stage.temporal.held == 1)
        assert (stage.sink.row_ids, seen) == (["a"], [])
        stage.temporal.release("a")
        await eventually(stage.is_empty)
    assert seen == ["1 written, 1 confirmed"]


async def test_crash_before_the_acknowledgement_writes_once_and_confirms_again(stage: Stage) -> None:
    await stage.write_without_acknowledging("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]
    assert [receipt.outcome for receipt in stage.temporal.receipts("a")] == [Outcome.DUPLICATE]
    assert stage.temporal.receipts("a")[0].batch_id == stage.sink.batches[0].batch_id


async def test_unavailable_sink_holds_the_batch_and_nobody_is_rejected(stage: Stage) -> None:
    stage.sink.outage = "database is away"
    await stage.append("a", "b")
    async with stage.draining() as running:
        await eventually(lambda: stage.sink.attempts >= 3)
        assert running.drain.details().holding == "database is away"
        assert stage.temporal.signals == []
        stage.sink.outage = None
        await eventually(stage.is_empty)
        assert running.drain.details().holding is None
    assert stage.sink.batch_ids == [["a", "b"]]
    assert [receipt.outcome for _, [receipt] in stage.temporal.signals] == [Outcome.WRITTEN] * 2


async def test_stop_while_a_batch_is_held_leaves_its_entries_pending(stage: Stage) -> None:
    stage.sink.outage = "database is away"
    await stage.append("a", "b")
    async with stage.draining() as running:
        await eventually(lambda: stage.sink.attempts >= 1)
        assert (await running.stop()).progress.written == 0
    assert await stage.counts() == (2, 2, 0)
    stage.sink.outage = None
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a", "b"]


async def test_drain_goes_on_when_redis_has_lost_everything(breakable: tuple[Stage, AnyRedis]) -> None:
    stage, _ = breakable
    async with stage.draining():
        await stage.append("before")
        await eventually(lambda: len(stage.temporal.receipts("before")) == 1)
        await stage.redis.flushall()
        await stage.append("after")
        await eventually(lambda: len(stage.temporal.receipts("after")) == 1)
    assert stage.sink.row_ids == ["before", "after"]


async def test_drain_goes_on_when_redis_was_killed(breakable: tuple[Stage, AnyRedis]) -> None:
    stage, server = breakable
    stage.temporal.hold("a")
    await stage.append("a")
    async with stage.draining():
        await eventually(lambda: stage.temporal.held == 1)
        await server.kill()
        stage.temporal.release("a")  # so the acknowledgement fails
        await eventually(lambda: len(stage.temporal.receipts("a")) == 1)
        await server.start()
        await stage.redis.aclose()  # a dead connection would fail the append below
        await stage.append("b")
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a", "b"]


async def test_entries_that_arrive_after_a_read_timed_out_are_not_stranded(tmp_path: Path, name: str) -> None:
    # A read that was cancelled when its time was up would leave the entries on their way pending, in nobody's hands.
    async with (
        RedisServer(tmp_path) as server,
        Proxy(server.port) as slow,
        connect(server.url) as redis,
        connect(f"redis://{HOST}:{slow.port}", longest_block=read.LONGEST_BLOCK) as reader,
    ):
        slow.delay_s = 4 * read.LONGEST_BLOCK.total_seconds()
        stage = stage_on(redis, reader, name)
        async with stage.draining():
            await eventually(partial(is_blocked, redis))  # its recovery is over, which would find them
            await stage.append("a", "b")
            await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a", "b"]


async def is_blocked(redis: Redis) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"])
