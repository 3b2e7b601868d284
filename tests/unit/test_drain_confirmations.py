"""Callers whose receipts cannot be encoded: they are told when their codec heals, and keep nobody waiting until then.

On virtual time, with the real waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from tests.support.virtual_drain import VirtualPartition
from tests.support.virtual_time import now, on_virtual_time
from write_batcher.activities.drain.confirm import RETRY_FOR

BATCHES, BATCH = 8, 12
FLOOD_S, BAD_A_SECOND = 40, 20
Trouble = Callable[[asyncio.Event], Awaitable[object]]


async def fails(_: asyncio.Event) -> None:
    raise ValueError("the key server answers HTML")


async def hangs(healed: asyncio.Event) -> None:
    await healed.wait()


async def hangs_stubbornly(healed: asyncio.Event) -> None:
    while not healed.is_set():
        try:
            await healed.wait()
        except asyncio.CancelledError:
            continue


async def is_cancelled(_: asyncio.Event) -> None:
    """As where callers share one call to a key server, and the first of them is cancelled."""
    raise asyncio.CancelledError


class BadCallers:
    """Makes trouble in each call to a caller named `bad...` until it is `healed`."""

    def __init__(self, partition: VirtualPartition, trouble: Trouble) -> None:
        self.healed = asyncio.Event()
        self.told_at: dict[str, float] = {}
        self._trouble = trouble
        self._call = partition.temporal.call
        partition.temporal.call = self.call  # type: ignore[method-assign]

    async def call(self, caller: str, rpc_timeout: timedelta | None) -> None:
        if caller.startswith("bad") and not self.healed.is_set():
            await self._trouble(self.healed)
        await self._call(caller, rpc_timeout)
        self.told_at.setdefault(caller, now())


@pytest.mark.parametrize("trouble", [fails, hangs, hangs_stubbornly, is_cancelled])
@on_virtual_time
async def test_one_bad_caller_in_each_batch_keeps_nobody_waiting(trouble: Trouble) -> None:
    partition = VirtualPartition(max_items=BATCH)
    callers = BadCallers(partition, trouble)
    good = {f"good-{batch}-{number}" for batch in range(BATCHES) for number in range(1, BATCH)}
    for batch in range(BATCHES):
        await partition.append(f"bad-{batch}", *sorted(name for name in good if name.startswith(f"good-{batch}-")))
    async with partition.draining():
        await asyncio.sleep(5)
        assert callers.told_at.keys() == good
        assert sorted(caller for caller, _ in partition.temporal.signals) == sorted(good)  # each once
        assert partition.queue.backlog == BATCHES  # all others are acknowledged
        await asyncio.sleep(400)  # beyond every limit
        assert partition.queue.backlog == BATCHES
        await partition.append("late")
        await asyncio.sleep(5)
        assert "late" in callers.told_at
        callers.healed.set()
        await asyncio.sleep(RETRY_FOR.total_seconds())
        assert partition.queue.backlog == 0
    assert callers.told_at.keys() == good | {f"bad-{batch}" for batch in range(BATCHES)} | {"late"}


@pytest.mark.parametrize("trouble", [fails, hangs, hangs_stubbornly])
@on_virtual_time
async def test_bad_callers_that_keep_coming_cost_the_others_nothing(trouble: Trouble) -> None:
    partition = VirtualPartition()
    callers = BadCallers(partition, trouble)
    appended: dict[str, float] = {}
    async with partition.draining():
        for second in range(FLOOD_S):
            await partition.append(*(f"bad-{second}-{number}" for number in range(BAD_A_SECOND)))
            for number in range(5):
                await partition.append(f"good-{second}-{number}")
                appended[f"good-{second}-{number}"] = now()
                await asyncio.sleep(0.2)
        await asyncio.sleep(5)
        assert max(callers.told_at[name] - at for name, at in appended.items()) <= 1.5
        assert len(asyncio.all_tasks()) < 4 * FLOOD_S * BAD_A_SECOND
        callers.healed.set()
        await asyncio.sleep(RETRY_FOR.total_seconds())
        assert partition.queue.backlog == 0


@on_virtual_time
async def test_caller_that_hangs_in_every_batch_does_not_slow_the_batches_down() -> None:
    partition = VirtualPartition(max_items=BATCH)
    callers = BadCallers(partition, hangs)
    for batch in range(100):
        await partition.append(f"bad-{batch}", caller="bad")
        await partition.append(*(f"good-{batch}-{number}" for number in range(1, BATCH)))
    async with partition.draining():
        await asyncio.sleep(5)
        assert partition.queue.backlog == 100
        callers.healed.set()
        await asyncio.sleep(RETRY_FOR.total_seconds())
        assert partition.queue.backlog == 0
