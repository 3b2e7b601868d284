"""Setting limits of a queue while its batcher runs."""

import json
from datetime import timedelta

import pytest

from tests.support.operated_queue import OperatedQueue
from tests.support.waiting import eventually
from write_batcher.models import FlushReason


async def test_pace_that_is_set_makes_a_running_batcher_answer_at_once(queue: OperatedQueue) -> None:
    await queue.announce()
    status, output, errors = await queue.command("queue", "set", "--pace", "50/s", "--max-items", "500")
    assert (status, errors) == (0, "")
    assert (
        output == f"{queue.name}: pace 50/s (set), max rate -, target latency -, max items 500 (set), max wait 50ms\n"
    )
    async with queue.batching(max_wait=timedelta(minutes=1)):
        await queue.append("a")
        await eventually(queue.is_empty)
        status, output, errors = await queue.command("monitor", "--once", "--json")
    [seen] = json.loads(output)["partitions"]
    assert (seen["pace"], seen["max_items"], seen["set_live"]) == (50.0, 500, ["max_items", "pace"])
    assert [batch.flush_reason for batch in queue.sink.batches] == [FlushReason.IDLE]


async def test_what_was_set_is_unset_again(queue: OperatedQueue) -> None:
    await queue.announce()
    await queue.command("queue", "set", "--pace", "50/s", "--max-wait", "5s")
    status, output, _ = await queue.command("queue", "set", "--pace", "none", "--max-wait", "default")
    assert (status, output) == (
        0,
        f"{queue.name}: pace - (set), max rate -, target latency -, max items 10, max wait 50ms\n",
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "There is nothing to set: give --pace, --max-rate, --target-latency, --max-items or --max-wait."),
        (["--pace", "10"], 2, "Setting pace = 10: '10' is not a rate; write a number and s, m or h, such as 10/s"),
        (["--max-rate", "0/s"], 2, "Setting max_rate = 0/s: a rate is from 1/m to 1000000/s"),
        (["--max-items", "none"], 2, "Option --max-items cannot be 'none': give a value, or 'default'."),
        (["--max-items", "0"], 2, "Setting max_items = 0: "),
        (["--max-wait", "20"], 2, "Setting max_wait = 20: '20' is not a duration"),
        (["--pace", "10/s", "--queue", "unused"], 1, "Queue 'unused' has no contract in namespace 'default'"),
    ],
)
async def test_what_cannot_be_set_is_refused_in_one_sentence(
    queue: OperatedQueue, arguments: list[str], status: int, message: str
) -> None:
    await queue.announce()
    ended, output, errors = await queue.command("queue", "set", *arguments)
    assert (ended, output, errors.count("\n"), message in errors) == (status, "", 1, True), errors
    ended, output, _ = await queue.command("queue", "set", "--pace", "default")
    assert output == f"{queue.name}: pace -, max rate -, target latency -, max items 10, max wait 50ms\n"
