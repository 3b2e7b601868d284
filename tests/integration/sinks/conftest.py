from collections.abc import AsyncIterator

import pytest

from tests.support.target_databases import Database
from write_batcher.sinks.sql.sink import SqlSink


@pytest.fixture
async def sink(database: Database) -> AsyncIterator[SqlSink]:
    async with database.sink() as sink:
        yield sink
