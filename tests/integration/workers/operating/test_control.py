"""Pausing, resuming, flushing and stopping the batcher of a queue."""

from datetime import timedelta

import pytest
from temporalio.service import RPCError, RPCStatusCode

from tests.support.batchers import some_terms
from tests.support.operated_queue import QUICK, OperatedQueue
from tests.support.waiting import eventually
from write_batcher.errors import OperationFailed
from write_batcher.queue.contract import ContractStore
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
    await queue.announce(some_terms(partitions=2))
    for verb in ("pause", "stop"):
        status, output, errors = await queue.command("queue", verb, "--partition", "1")
        assert (status, output) == (1, "")
        assert errors == (
            f"write-batcher: Partition {queue.name}/1 has no running batcher workflow: "
            f"start one with `write-batcher worker batcher --queue {queue.name}`.\n"
        )
    status, output, _ = await queue.command("queue", "status")
    assert status == 0
    assert output.count("batcher: not running\n") == 2
    status, _, errors = await queue.command("queue", "resume")
    assert (status, errors.count("has no running batcher workflow")) == (1, 2)


async def test_resume_of_a_drain_that_is_paused_in_temporal_drains_again(queue: OperatedQueue) -> None:
    async with queue.batching():
        await eventually(lambda: queue.is_in(HostState.RUNNING))
        await queue.pause_in_temporal()
        await eventually(lambda: queue.is_in(HostState.PAUSED_IN_TEMPORAL))
        await queue.append("waits")

        assert await queue.command("queue", "resume") == (0, f"{queue.partition}: running\n", "")
        await eventually(queue.is_empty)
    assert [row.request_id for row in queue.sink.rows] == ["waits"]


async def test_resume_fails_and_says_how_where_temporal_refuses_to_unpause(
    queue: OperatedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RPCError("not for you", RPCStatusCode.PERMISSION_DENIED, b"")

    async with queue.batching():
        await eventually(lambda: queue.is_in(HostState.RUNNING))
        await queue.pause_in_temporal()
        await eventually(lambda: queue.is_in(HostState.PAUSED_IN_TEMPORAL))
        monkeypatch.setattr(queue.client.workflow_service, "unpause_activity", refuse)
        with pytest.raises(
            OperationFailed, match=r"refuses to unpause it \(not for you\): run `temporal activity"
        ) as told:
            await steer(queue.client, queue.partition, Verb.RESUME)
        workflow_id, activity_id = f"write-batcher/{queue.partition}", (await queue.view()).host.drain_id
        assert f"unpause --workflow-id {workflow_id} --activity-id {activity_id}`" in str(told.value)


async def test_queue_that_lost_its_contract_is_operated_from_its_data(queue: OperatedQueue) -> None:
    async with queue.batching(max_wait=timedelta(minutes=5)):
        await queue.append("first")
        await eventually(lambda: queue.is_in(HostState.RUNNING))
        await ContractStore(queue.redis, queue.ref).forget()

        status, output, _ = await queue.command("queue", "status")
        assert status == 0
        assert f"{queue.partition} backlog: 1\n" in output
        assert "the queue has no contract" in output
        assert await queue.command("queue", "pause") == (0, f"{queue.partition}: paused\n", "")
