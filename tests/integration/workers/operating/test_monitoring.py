"""What the monitor shows of a queue and its batcher."""

import asyncio
import json
import signal
from dataclasses import replace

import pytest

from tests.support.batchers import some_terms
from tests.support.command import CLEAN_ENVIRONMENT, COMMAND
from tests.support.operated_queue import QUICK, WITHIN_S, OperatedQueue, a_request
from tests.support.waiting import eventually
from write_batcher.activities.drain import loop as loop_module
from write_batcher.models import ReplyAddress
from write_batcher.workers.operating.control import Verb, steer
from write_batcher.workers.operating.host import HostState


async def test_counters_add_up_over_every_outcome_of_a_request(queue: OperatedQueue) -> None:
    sink = queue.sink
    given_up = replace(a_request("given-up"), reply=ReplyAddress(workflow_id="caller", run_id="run", attempt="try"))
    await sink.settle(given_up, queue=str(queue.ref))
    async with queue.batching():
        await queue.append(*(f"good-{number}" for number in range(25)), "bad-1", "bad-2", "bad-3", given_up)
        await eventually(queue.is_empty)
        sink.answers_to_lose = 1
        await queue.append("twice")
        await eventually(queue.is_empty)
        await queue.append_foreign(await queue.fields("good-1"))
        await queue.append("good-2")
        await queue.append_foreign({b"v": b"1", b"what": b"is this"})
        await queue.append_foreign({b"v": b"x"})
        await queue.stream.append_flush()
        await eventually(queue.is_empty)
        sink.repair()
        for letter in await queue.selected():
            if letter.dead.request_id != "bad-3":
                await queue.letters.replay(letter)
        await eventually(queue.is_empty)
        await steer(queue.client, queue.partition, Verb.PAUSE)
        await queue.append("later-1", "later-2")

        status, output, errors = await queue.command("monitor", "--once", "--json")

    assert (status, errors) == (0, "")
    [seen] = json.loads(output)["partitions"]
    outcomes = {name: seen[name] for name in ("written", "duplicate", "rejected", "withdrawn", "undecodable")}
    assert outcomes == {"written": 27, "duplicate": 3, "rejected": 3, "withdrawn": 1, "undecodable": 4}
    assert (seen["backlog"], seen["dead_letters"], seen["batcher"]) == (2, 3, "paused")
    assert seen["appended"] == sum(outcomes.values()) + seen["backlog"] == 40
    assert len(sink.rows) == seen["written"] + 1  # `twice` is written, and answered as a duplicate
    written = {batch.batch_id: len(batch.requests) for batch in sink.batches}
    assert sum(seen["batches"].values()) == len(written)
    assert seen["fill"] == pytest.approx(sum(written.values()) / len(written) / 10)


async def test_monitor_shows_why_a_batch_is_held_and_the_attempt(queue: OperatedQueue) -> None:
    queue.sink.outage = "the disk is full"

    async def holds() -> bool:
        progress = (await queue.view()).host.progress
        return progress is not None and progress.holding == "the disk is full"

    async with queue.batching():
        await queue.append("a", "b")
        await eventually(holds)
        await queue.announce(some_terms(max_wait_ms=1))
        view = await queue.view()
        assert (view.host.state, view.host.attempt, view.in_flight, view.pending) == (HostState.RUNNING, 1, 2, 2)
        assert "nothing is written: the disk is full" in (view.warning or "")
        queue.sink.outage = None
        await eventually(queue.is_empty)
    assert (await queue.view()).warning is None


async def test_monitor_counts_the_drains_that_have_returned(
    queue: OperatedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "DRAIN_FOR", QUICK)

    async def counted() -> bool:
        return ((await queue.view()).host.drains or 0) >= 2

    async with queue.batching():
        await eventually(counted)


async def test_monitor_shows_that_the_drain_is_paused_in_temporal(queue: OperatedQueue) -> None:
    async with queue.batching():
        await eventually(lambda: queue.is_in(HostState.RUNNING))
        await queue.pause_in_temporal()
        await eventually(lambda: queue.is_in(HostState.PAUSED_IN_TEMPORAL))


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
async def test_monitor_refreshes_until_it_is_interrupted(queue: OperatedQueue, interrupt: signal.Signals) -> None:
    await queue.announce()
    monitor = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("monitor", "--json", "--every", "100ms"),
        env=CLEAN_ENVIRONMENT | queue.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert monitor.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        looks = [json.loads(await monitor.stdout.readline()) for _ in range(3)]
        monitor.send_signal(interrupt)
        _, errors = await monitor.communicate()
    assert (monitor.returncode, errors) == (0, b"")
    assert [look["partitions"][0]["batcher"] for look in looks] == ["not running"] * 3
