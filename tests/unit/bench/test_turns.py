"""Rounds in which contestants take turns, and tasks that share work."""

import asyncio

import pytest

from write_batcher.bench.at_once import work_off
from write_batcher.bench.duel_figures import Readings
from write_batcher.bench.turns import take_turns
from write_batcher.errors import WrongWork


async def test_everybody_is_measured_once_a_round_and_nobody_is_always_first() -> None:
    order = []

    def measure(name: str) -> "asyncio.Future[Readings]":
        order.append(name)
        done: asyncio.Future[Readings] = asyncio.get_running_loop().create_future()
        done.set_result({"rows_per_s": float(len(order))})
        return done

    phrases: list[str] = []
    found = await take_turns(
        {"ours": lambda: measure("ours"), "floor": lambda: measure("floor")},
        rounds=2,
        shown="rows_per_s",
        measured=phrases.append,
    )
    assert order == ["ours", "floor", "floor", "ours"]
    assert found == {
        "ours": [{"rows_per_s": 1.0}, {"rows_per_s": 4.0}],
        "floor": [{"rows_per_s": 2.0}, {"rows_per_s": 3.0}],
    }
    assert phrases[0] == "ours: 1 rows/s"


async def test_work_is_done_once_and_by_no_more_tasks_than_given() -> None:
    done: list[int] = []
    running = most = 0

    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    await work_off(range(20), work, tasks=3)
    assert sorted(done) == list(range(20))
    assert most == 3


async def test_first_error_ends_the_work_as_it_is() -> None:
    async def work(number: int) -> None:
        await asyncio.sleep(0)
        if number == 2:
            raise WrongWork("Two.")

    with pytest.raises(WrongWork, match=r"^Two\.$"):
        await work_off(range(1_000), work, tasks=3)
