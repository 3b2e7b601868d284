import asyncio
from datetime import timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from write_batcher.activities.drain import watch as watch_module
from write_batcher.activities.drain.watch import BEAT_EVERY, Watch
from write_batcher.config import SHORTEST_HEARTBEAT_TIMEOUT
from write_batcher.errors import StageStalled

WITHIN_S = 5
LONG = timedelta(hours=1)
PAST = timedelta(microseconds=-1)  # a limit that has passed when the step begins


async def test_step_within_its_limit_passes_the_check() -> None:
    watch = Watch()
    with watch.step("writing a batch", LONG):
        watch.check()


async def test_step_past_its_limit_is_named() -> None:
    watch = Watch()
    with (
        watch.step("reading", LONG),
        watch.step("writing a batch", PAST),
        pytest.raises(StageStalled, match="The drain has stalled: writing a batch has taken longer than"),
    ):
        watch.check()


async def test_step_that_ended_late_passes_the_check() -> None:
    watch = Watch()
    with watch.step("writing a batch", PAST):
        pass
    watch.check()


async def test_step_that_failed_is_no_longer_checked() -> None:
    watch = Watch()
    with pytest.raises(ZeroDivisionError), watch.step("writing a batch", PAST):
        raise ZeroDivisionError
    watch.check()


async def test_step_that_is_under_way_twice_is_checked_twice() -> None:
    watch = Watch()
    with watch.step("confirming", PAST):
        with watch.step("confirming", LONG):
            pass
        with pytest.raises(StageStalled):
            watch.check()


async def test_each_heartbeat_carries_the_details_of_its_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT_EVERY", timedelta(0))
    environment = ActivityEnvironment()
    beats: list[object] = []
    enough = asyncio.Event()

    def on_heartbeat(*details: object) -> None:
        beats.extend(details)
        if len(beats) == 3:
            enough.set()

    environment.on_heartbeat = on_heartbeat
    beating = asyncio.create_task(environment.run(Watch().beat, lambda: len(beats)))
    async with asyncio.timeout(WITHIN_S):
        await enough.wait()
    beating.cancel()
    await asyncio.wait({beating}, timeout=WITHIN_S)
    assert beats[:3] == [0, 1, 2]
    assert beating.cancelled()


async def test_heartbeats_end_when_a_step_stalls() -> None:
    environment = ActivityEnvironment()
    beats: list[object] = []
    environment.on_heartbeat = beats.append
    watch = Watch()
    with watch.step("writing a batch", PAST), pytest.raises(StageStalled):
        async with asyncio.timeout(WITHIN_S):
            await environment.run(watch.beat, lambda: "alive")
    assert beats == []


def test_shortest_heartbeat_timeout_leaves_time_for_a_beat_before_each_heartbeat_of_the_sdk() -> None:
    assert BEAT_EVERY < SHORTEST_HEARTBEAT_TIMEOUT * 0.8
