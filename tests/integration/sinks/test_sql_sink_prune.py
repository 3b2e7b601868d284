"""Pruning the ledger of every database."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.target_databases import Database, batch, order, outcomes, statements, verbs
from write_batcher.models import Outcome
from write_batcher.sinks.sql import ledger
from write_batcher.sinks.sql.sink import SqlSink

KEPT = timedelta(days=15)  # more than a row is kept


async def test_prune_deletes_old_rows_in_bounded_steps(
    database: Database, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PRUNE_ROWS", 10)
    await sink.write(batch(*(order(number) for number in range(25))))
    database.age_ledger(days=15)
    await sink.write(batch(*(order(number) for number in range(25, 30))))

    with statements() as sent:
        assert await sink.prune() == 25

    assert verbs(sent).count("DELETE") == 3
    assert database.count("write_batcher_ledger") == 5
    assert await sink.prune() == 0


@pytest.mark.parametrize("wrong", ["database", "caller"])
async def test_prune_keeps_rows_that_are_old_by_one_clock_alone(database: Database, sink: SqlSink, wrong: str) -> None:
    await sink.write(batch(order(1)))
    now = datetime.now(UTC)
    if wrong == "database":
        database.age_ledger(days=15)  # as if its clock had jumped ahead
        now -= KEPT
    else:
        now += KEPT

    assert await sink.prune(now=now) == 0

    assert outcomes(await sink.write(batch(order(1), batch_id="batch-2"))) == [Outcome.DUPLICATE]


async def test_prune_finds_old_rows_by_an_index(database: Database, sink: SqlSink) -> None:
    with statements() as sent:
        await sink.prune()
    (where,) = [statement.partition("WHERE")[2] for statement, _ in sent if statement.startswith("DELETE")]
    assert "expires_at <" in where

    catalogue = {"sqlite": "SELECT name FROM sqlite_master", "postgresql": "SELECT indexname FROM pg_indexes"}
    assert ("ix_write_batcher_ledger_expires_at",) in database.query(catalogue[database.kind])
