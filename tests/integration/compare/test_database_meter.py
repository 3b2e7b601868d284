"""The meter of a comparison sees each batch of the sink, on the quick way and on the careful one."""

from collections.abc import Iterator

import pytest

from tests.support.target_databases import Database, batch, order
from write_batcher.compare.database_meter import DatabaseMeter


@pytest.fixture
def meter() -> Iterator[DatabaseMeter]:
    meter = DatabaseMeter()
    yield meter
    meter.stop()


async def test_each_batch_is_a_transaction(database: Database, meter: DatabaseMeter) -> None:
    async with database.sink(["orders"]) as sink:
        await sink.write(batch(*map(order, range(3)), batch_id="first"))
        meter.take()
        await sink.write(batch(*map(order, range(3, 6)), batch_id="quick"))
        assert meter.take().transactions == 1
        await sink.write(batch(*map(order, range(5, 8)), batch_id="with a duplicate"))
        assert meter.take().transactions == 2  # the quick way gives up, and the careful one writes
    assert database.count("orders") == 8
