"""What held entries, slow key servers and slow sinks cost the others: on virtual time, with the real waits."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from temporalio.testing import ActivityEnvironment

from tests.support.virtual_drain import TroubledSink, VirtualPartition
from tests.support.virtual_time import A_DAY_S, now, on_virtual_time, run_virtually
from write_batcher.activities.drain import activity, hold, read
from write_batcher.activities.drain.activity import ABANDON_AFTER, STOP_WITHIN
from write_batcher.activities.drain.target import GIVE_UP_WITHIN
from write_batcher.errors import BatchTooLarge, StageStalled
from write_batcher.models import Batch, Held, Outcome, WriteReceipt

HANGS = 1e6


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def slowest_of_good_requests(partition: VirtualPartition, *, bad_a_second: int) -> float:
    """Append five good requests a second for a minute, with so many bad ones; returns the longest wait of a good one in
    seconds, from its append to its receipt.
    """
    appended: dict[str, float] = {}
    async with partition.draining():
        for second in range(60):
            await partition.append(*(f"bad-{second}-{number}" for number in range(bad_a_second)))
            for number in range(5):
                request_id = f"good-{second}-{number}"
                await partition.append(request_id)
                appended[request_id] = now()
                await asyncio.sleep(0.2)
        await asyncio.sleep(30)
    waits = []
    for caller, [receipt] in partition.temporal.signals:
        assert receipt.outcome is Outcome.WRITTEN
        waits.append((receipt.queued_ms or 0) + (receipt.write_ms or 0) + (receipt.confirm_ms or 0))
        del appended[caller]
    assert appended == {}
    return max(waits) / 1000


@pytest.mark.parametrize("trouble", [HANGS, OSError("the key server answers HTML")], ids=["hangs", "fails"])
@on_virtual_time
async def test_bad_key_server_costs_the_others_nothing_measurable(trouble: float | Exception) -> None:
    waits = []
    for bad_a_second in (0, 20):
        partition = VirtualPartition()
        partition.decode_with_key_server()
        partition.keys.trouble = lambda request_id: trouble if request_id.startswith("bad") else 0.01
        waits.append(await slowest_of_good_requests(partition, bad_a_second=bad_a_second))
    without, with_bad_ones = waits
    assert with_bad_ones <= without + 0.5


@on_virtual_time
async def test_entries_that_are_held_again_and_again_cost_the_others_little() -> None:
    def is_bad(batch: Batch) -> bool:
        return any(request.request_id.startswith("bad") for request in batch.requests)

    waits = []
    for bad_a_second in (0, 2):
        partition = VirtualPartition()
        partition.sink.hold = lambda request: "locked" if request.request_id.startswith("bad") else None
        partition.sink.trouble = lambda batch: 1.0 if is_bad(batch) else 0.01  # the lock is waited for
        waits.append(await slowest_of_good_requests(partition, bad_a_second=bad_a_second))
    without, with_bad_ones = waits
    assert with_bad_ones <= without + 3.0


@on_virtual_time
async def test_request_that_runs_into_a_timeout_uses_little_of_the_writers_time() -> None:
    partition = VirtualPartition()
    partition.sink.hold = lambda _: "statement timeout"
    tries: list[float] = []

    def slow(batch: Batch) -> float:
        tries.append(now())
        return 30.0

    partition.sink.trouble = slow
    await partition.append("slow")
    async with partition.draining():
        await asyncio.sleep(3600)
    assert 4 <= len(tries) <= 8


@on_virtual_time
async def test_undecodable_entry_is_asked_for_less_and_less_often() -> None:
    partition = VirtualPartition()
    partition.decode_with_key_server()
    partition.keys.trouble = lambda _: OSError("away")
    await partition.append("a")
    async with partition.draining():
        await asyncio.sleep(600)
    assert 40 <= partition.keys.asked["a"] <= 46


@on_virtual_time
async def test_new_undecodable_entries_do_not_postpone_the_tries_of_others() -> None:
    partition = VirtualPartition()
    partition.decode_with_key_server()
    away = {"a"}
    partition.keys.trouble = lambda request_id: OSError("away") if request_id in away or request_id > "b" else 0.0
    await partition.append("a")
    async with partition.draining():
        for number in range(100):
            await partition.append(f"b{number}")
            await asyncio.sleep(0.1)
            if number == 5:
                away.clear()
        assert partition.sink.row_ids == ["a"]


@on_virtual_time
async def test_codec_that_ignores_its_cancellation_holds_up_nobody() -> None:
    partition = VirtualPartition()
    partition.decode_with_key_server()
    decode = partition.keys.decode

    async def stubborn(payloads: list[object]) -> list[object]:
        ends_at = now() + 300
        while b"bad" in payloads[0].data and now() < ends_at:  # type: ignore[attr-defined]
            try:
                await asyncio.sleep(ends_at - now())
            except asyncio.CancelledError:
                continue
        return await decode(payloads)  # type: ignore[arg-type,return-value]

    partition.keys.decode = stubborn  # type: ignore[method-assign,assignment]
    await partition.append("bad", "good")
    drain = partition.drain()
    running = asyncio.create_task(ActivityEnvironment().run(drain.run))
    await asyncio.sleep(20)
    assert partition.sink.row_ids == ["good"]
    drain.stop()
    started = now()
    await running
    assert now() - started < STOP_WITHIN.total_seconds()


@on_virtual_time
async def test_hot_key_whose_first_entry_was_held_catches_up_in_full_batches() -> None:
    partition = VirtualPartition()
    locked = True
    partition.sink.hold = lambda request: "locked" if locked and request.request_id == "k0" else None
    async with partition.draining():
        await partition.append("k0", key="k")
        await asyncio.sleep(5)
        await partition.append(*(f"k{number}" for number in range(1, 250)), key="k")
        await asyncio.sleep(5)
        locked, before = False, len(partition.sink.batches)
        await asyncio.sleep(60)
    assert partition.sink.row_ids == [f"k{number}" for number in range(250)]
    assert len(partition.sink.batches) - before == 4  # the first alone, then 100, 100 and 49


@on_virtual_time
async def test_batches_that_take_too_long_are_halved_and_grow_again() -> None:
    partition = VirtualPartition()
    fast = False

    def times_out(batch: Batch) -> float | Exception:
        return 0.01 if fast or len(batch.requests) <= 20 else BatchTooLarge("statement timeout")

    partition.sink.trouble = times_out
    await partition.append(*(f"r{number}" for number in range(1_000)))
    await partition.run_until_empty()
    assert partition.sink.row_ids == [f"r{number}" for number in range(1_000)]
    assert max(len(batch.requests) for batch in partition.sink.batches) <= 20
    fast = True
    await partition.append(*(f"s{number}" for number in range(5_000)))
    await partition.run_until_empty()
    assert len(partition.sink.batches[-1].requests) == 100


@on_virtual_time
async def test_entries_in_hand_are_bounded_in_bytes() -> None:
    partition = VirtualPartition(max_items=4_000, max_bytes=50_000)
    partition.sink.trouble = lambda _: HANGS
    await partition.append(*(f"{number}-{'x' * 400}" for number in range(2_000)))
    async with partition.draining():
        await asyncio.sleep(30)
        assert sum(partition.queue.reads) < 4 * partition.max_bytes  # open, closed, being written, and one read
        partition.sink.trouble = lambda _: 0.0
        raise_hung_write(partition.sink)


def raise_hung_write(sink: TroubledSink) -> None:
    """End the write that hangs, like a database that closes the connection."""
    for task in asyncio.all_tasks():
        if "TroubledSink.write" in repr(task.get_coro()):
            task.cancel()


def test_hanging_entries_in_hand_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_DECODING", 50)
    monkeypatch.setattr(hold, "MAX_HELD", 200)

    async def work() -> None:
        partition = VirtualPartition(max_items=100)
        partition.decode_with_key_server()
        partition.keys.trouble = lambda _: HANGS
        await partition.append(*(f"r{number}" for number in range(1_000)))
        async with partition.draining() as drain:
            await asyncio.sleep(5)
            assert drain.details().in_flight <= 50 + 100
            await asyncio.sleep(600)
            assert 200 <= drain.details().held <= 200 + 50 + 100
            assert (drain.details().holding or "").endswith("entries are held, more are not taken")

    run_virtually(work(), within_s=A_DAY_S)


async def seconds_to_stop(partition: VirtualPartition, ready: Callable[[], object]) -> float:
    """Run the drain as its activity does until `ready`, tell it to stop, and return how long that takes."""
    drain, stop = partition.drain(), asyncio.Event()
    running = asyncio.create_task(ActivityEnvironment().run(activity._run_until_stopped, drain, stop))
    while not ready():  # noqa: ASYNC110 - virtual seconds
        await asyncio.sleep(0.1)
    stop.set()
    started = now()
    await asyncio.wait({running})
    if not running.cancelled() and (error := running.exception()):
        assert isinstance(error, StageStalled)
    return now() - started


@on_virtual_time
async def test_idle_drain_stops_as_soon_as_its_read_returns() -> None:
    assert await seconds_to_stop(VirtualPartition(), lambda: True) <= read.LONGEST_BLOCK.total_seconds() + 0.2


@pytest.mark.parametrize("hung", ["sink", "stubborn sink", "Temporal", "key server", "Redis"])
@on_virtual_time
async def test_drain_ends_in_time_whatever_hangs(hung: str) -> None:
    partition = VirtualPartition()
    ready: Callable[[], object] = lambda: partition.sink.writing  # noqa: E731
    match hung:
        case "sink":
            partition.sink.trouble = lambda _: HANGS
        case "stubborn sink":
            partition.sink.write = stubborn_write  # type: ignore[method-assign]
            ready = lambda: partition.queue.reads  # noqa: E731
        case "Temporal":
            partition.temporal.hold("a")
            ready = lambda: partition.temporal.held  # noqa: E731
        case "key server":
            partition.decode_with_key_server()
            partition.keys.trouble = lambda _: HANGS
            ready = lambda: partition.keys.asked["a"]  # noqa: E731
        case "Redis":
            ready = partial(_freeze, partition)
    await partition.append("a")
    limit = STOP_WITHIN + GIVE_UP_WITHIN + ABANDON_AFTER
    assert await seconds_to_stop(partition, ready) <= limit.total_seconds() + 0.1


def _freeze(partition: VirtualPartition) -> bool:
    """Freeze Redis as soon as something has been read."""
    partition.queue.hangs_s = 7.0 if partition.queue.reads else 0.0
    return bool(partition.queue.reads)


async def stubborn_write(batch: Batch) -> list[WriteReceipt | Held]:
    give_up = now() + 40  # or nobody could end the test's loop
    while now() < give_up:
        try:
            await asyncio.sleep(give_up - now())
        except asyncio.CancelledError:
            continue
    return []
