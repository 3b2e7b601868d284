"""Pausing, resuming, flushing and stopping the batcher of a queue."""

from datetime import timedelta

import pytest

from tests.support.operated_queue import QUICK, OperatedQueue
from tests.support.waiting import eventually
from write_batcher.errors import OperationFailed
from write_batcher.queue.partitions import Partitions
from write_batcher.workers.operating import control
from write_batcher.workers.operating.control import Verb, steer
from write_batcher.workers.operating.host import HostState


async def test_pause_resume_flush_and_stop_take_effect_before_the_command_ends(queue: OperatedQueue) -> None:
    async with queue.batching(max_wait=timedelta(minutes=5)):
        await queue.append("first")
        await eventually(lambda: queue.is_in(HostState.RUNNING))

        assert await queue.command("queue", "pause") == (0, f"{queue.partition}: paused\n", "")
        assert [row.request_id for row in queue.sink.rows] == ["first"]
        await queue.append("second")
        status, output, _ = await queue.command("queue", "status", "--partition", "0")
        assert status == 0
        assert f"{queue.partition} batcher: paused\n" in output
        assert f"{queue.partition} backlog: 1\n" in output

        assert await queue.command("queue", "resume") == (0, f"{queue.partition}: running\n", "")
        assert await queue.command("queue", "flush") == (0, f"{queue.partition}: flush requested\n", "")
        await eventually(queue.is_empty)
        assert [row.request_id for row in queue.sink.rows] == ["first", "second"]

        status, output, _ = await queue.command("queue", "stop")
        assert (status, output) == (0, f"{queue.partition}: stopped until a batcher worker starts again\n")
        assert (await queue.view()).host.closed_as == "completed"


async def test_pause_without_a_worker_is_reported_and_kept(
    queue: OperatedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "EFFECT_WITHIN", QUICK)
    await queue.start_batcher()
    with pytest.raises(OperationFailed, match=r"was sent `pause`, .* is waiting\. Check that a batcher worker"):
        await steer(queue.client, queue.partition, Verb.PAUSE)
    async with queue.batching(start=False):
        await eventually(lambda: queue.is_in(HostState.PAUSED))


@pytest.mark.thorough
async def test_commands_say_when_there_is_no_batcher(queue: OperatedQueue) -> None:
    await Partitions(queue.redis, queue.name).announce(2)
    for verb in ("pause", "stop"):
        status, output, errors = await queue.command("queue", verb, "--partition", "1")
        assert (status, output) == (1, "")
        assert errors == (
            f"write-batcher: Partition {queue.name}/1 has no running batcher workflow: "
            "start one with `write-batcher worker batcher`.\n"
        )
    status, output, _ = await queue.command("queue", "status")
    assert status == 0
    assert output.count("batcher: not running\n") == 2
    status, _, errors = await queue.command("queue", "resume")
    assert (status, errors.count("has no running batcher workflow")) == (1, 2)
