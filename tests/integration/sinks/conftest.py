from collections.abc import AsyncIterator

import pytest

from tests.support.target_databases import Database
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.sqlite import SqliteDialect


@pytest.fixture
async def sink(database: Database) -> AsyncIterator[SqlSink]:
    async with database.sink() as sink:
        yield sink


@pytest.fixture
def through_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLAlchemy, which can be watched, run every statement, also those that a database gets in one call."""
    for dialect in (SqliteDialect, PostgresDialect):
        monkeypatch.setattr(dialect, "takes_in_one_call", lambda *_: False)
