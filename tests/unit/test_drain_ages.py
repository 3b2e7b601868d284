"""An entry that gets too old while a drain has it in hand is rejected, and not written."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.support.virtual_drain import VirtualPartition
from tests.support.virtual_time import now, on_virtual_time
from write_batcher.activities.drain import write_again
from write_batcher.errors import SinkUnavailable

MAX_AGE = timedelta(seconds=60)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def assert_rejected_for_its_age(partition: VirtualPartition) -> None:
    assert partition.sink.row_ids == []
    [letter] = partition.queue.letters
    assert "longer than the ledger remembers" in letter.reason


@on_virtual_time
async def test_entry_that_gets_too_old_in_an_open_batch_is_not_written() -> None:
    partition = VirtualPartition(max_age=MAX_AGE, max_wait=MAX_AGE + timedelta(seconds=5))
    await partition.append("a")
    await partition.run_until_empty()
    assert_rejected_for_its_age(partition)


@pytest.mark.parametrize("away", ["sink", "key server"])
@on_virtual_time
async def test_entry_that_gets_too_old_while_a_server_is_away_is_not_written(away: str) -> None:
    partition = VirtualPartition(max_age=MAX_AGE)
    healed_at = now() + MAX_AGE.total_seconds() + 20
    if away == "sink":
        partition.sink.trouble = lambda _: SinkUnavailable("away") if now() < healed_at else 0.0
    else:  # it is held meanwhile
        partition.decode_with_key_server()
        partition.keys.trouble = lambda _: OSError("away") if now() < healed_at else 0.0
    await partition.append("a")
    await partition.run_until_empty()
    assert_rejected_for_its_age(partition)


@on_virtual_time
async def test_stops_while_the_sink_is_away_do_not_count_against_an_entry_that_is_too_old() -> None:
    partition = VirtualPartition(max_age=timedelta(0))
    partition.sink.settle_trouble = lambda _: SinkUnavailable("away")
    await partition.append("a")
    for _ in range(write_again.MAX_TRIES_ALONE + write_again.MAX_TRIES_TO_SETTLE + 1):
        async with partition.draining():
            await asyncio.sleep(2)
    assert partition.queue.letters == []
    partition.sink.settle_trouble = lambda _: None
    await partition.run_until_empty()
    assert_rejected_for_its_age(partition)
