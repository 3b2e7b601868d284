from collections.abc import AsyncIterator

import pytest

from tests.support.target_databases import Database
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.sqlite import SqliteDialect


@pytest.fixture
async def sink(database: Database) -> AsyncIterator[SqlSink]:
    async with database.sink() as sink:
        yield sink


@pytest.fixture
def through_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLAlchemy, which can be watched, run every statement, also those that SQLite gets in one call."""
    monkeypatch.setattr(SqliteDialect, "writes_in_one_call", False)
