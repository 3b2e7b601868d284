"""What the operator's commands say when they are used wrongly or find nothing."""

import pytest

from tests.support.operated_queue import OperatedQueue


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["queue", "pause", "--partition", "7"], ["has no partition 7", "0 to 0"]),
        (["queue", "pause", "--partition", "-1"], ["--partition '-1'", "write 0, 1"]),
        (["queue", "status", "--partition", "x"], ["--partition 'x'", "write 0, 1"]),
        (["queue", "status", "--queue", "a b"], ["queue = a b"]),
        (["monitor", "--every", "2"], ["--every '2' is not a duration", "500ms, 20s"]),
        (["monitor", "--every", "1ms"], ["--every '1ms' is below the limit of 100ms"]),
        (["dead-letters", "replay"], ["exactly one of ID, --reason TEXT and --all"]),
        (["dead-letters", "discard", "0/5-0", "--all"], ["exactly one of ID, --reason TEXT and --all"]),
        (["dead-letters", "discard", "--reason", ""], ["--reason ''", "--all"]),
        (["dead-letters", "show", "5-0"], ["ID '5-0'", "0/1735689600000-0"]),
        (["queue", "reject", "5-0"], ["ID '5-0'", "`write-batcher queue list`"]),
        (["dead-letters", "list", "--redis-url", "redis://127.0.0.1:1"], ["Redis at redis://127.0.0.1:1"]),
    ],
)
async def test_wrong_usage_ends_with_one_sentence_and_status_2(
    queue: OperatedQueue, arguments: list[str], wanted: list[str]
) -> None:
    await queue.announce()
    status, output, errors = await queue.command(*arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    for part in wanted:
        assert part in errors


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["dead-letters", "replay", "--all", "--dry-run"], "There is no dead letter: "),
        (["dead-letters", "discard", "--reason", "no such"], "There is no dead letter with 'no such' in its reason: "),
        (["dead-letters", "show", "0/5-0"], "There is no dead letter 0/5-0: "),
        (["dead-letters", "show", "9/5-0"], "There is no dead letter 9/5-0: "),
        (["dead-letters", "list", "--queue", "unused"], "Queue 'unused' has never been used in namespace 'default': "),
        (["queue", "reject", "0/5-0"], "There is no request 0/5-0: `write-batcher queue list` shows"),
        (["queue", "release", "9/5-0"], "There is no request 9/5-0: `write-batcher queue list` shows"),
        (["queue", "list", "--queue", "unused"], "Queue 'unused' has never been used in namespace 'default': "),
        (["queue", "move", "--queue", "unused"], "Queue 'unused' belongs to no sink in namespace 'default': "),
        (["monitor", "--once", "--queue", "unused"], "Queue 'unused' has never been used in namespace 'default': "),
    ],
)
async def test_commands_that_find_nothing_say_so_and_end_with_1(
    queue: OperatedQueue, arguments: list[str], wanted: str
) -> None:
    await queue.announce()
    status, output, errors = await queue.command(*arguments)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert wanted in errors


async def test_queue_of_another_namespace_is_another_queue(queue: OperatedQueue) -> None:
    await queue.announce()
    await queue.add_dead_letter(await queue.fields("bad-1"), "cents is not a number")
    queue.environment["TEMPORAL_NAMESPACE"] = "staging"
    status, output, errors = await queue.command("dead-letters", "list")
    assert (status, output) == (1, "")
    assert f"Queue '{queue.name}' has never been used in namespace 'staging': " in errors
