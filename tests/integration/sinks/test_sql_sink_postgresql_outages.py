"""PostgreSQL servers that stop, freeze, change roles or take too long."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.target_databases import (
    NO_SYNC,
    QUEUE,
    PostgresDatabase,
    batch,
    held_after,
    order,
    outcomes,
    reason,
    slow_down,
)
from tests.support.waiting import eventually
from write_batcher.errors import BatchTooLarge, SinkUnavailable
from write_batcher.models import Outcome
from write_batcher.sinks.sql import batch_write, postgresql as dialect, sink as sql
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.embedded.postgres_server import PostgresServer


@pytest.fixture
async def sink(postgres: PostgresDatabase) -> AsyncIterator[SqlSink]:
    async with postgres.sink(["orders"]) as sink:
        yield sink


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[PostgresServer]:
    async with PostgresServer(tmp_path, extra=NO_SYNC) as server:
        yield server


async def test_stopped_server_is_unavailable_until_it_is_back(own_server: PostgresServer) -> None:
    postgres = PostgresDatabase.fresh(own_server)
    async with postgres.sink() as sink:
        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]
        await own_server.stop()
        with pytest.raises(SinkUnavailable):
            await sink.write(batch(order(2)))
        with pytest.raises(SinkUnavailable):
            await sink.settle(order(2), queue=QUEUE)
        await own_server.start()

        receipts = await sink.write(batch(order(1), order(2)))
        settled = await sink.settle(order(2), queue=QUEUE)

    assert outcomes([*receipts, settled]) == [Outcome.DUPLICATE, Outcome.WRITTEN, Outcome.WRITTEN]


async def test_connections_to_a_server_that_became_read_only_are_dropped(postgres: PostgresDatabase) -> None:
    async with postgres.sink() as sink:
        try:
            postgres.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'write-batcher'"
            )
            with pytest.raises(SinkUnavailable, match="read-only"):
                await sink.write(batch(order(1)))
        finally:
            with postgres.connect(options="-c default_transaction_read_only=off") as connection:
                connection.execute("ALTER DATABASE postgres RESET default_transaction_read_only")

        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


@pytest.mark.usefixtures("through_sqlalchemy")
async def test_server_killed_in_the_middle_of_a_batch_has_written_nothing(own_server: PostgresServer) -> None:
    postgres = PostgresDatabase.fresh(own_server)
    async with postgres.sink() as sink, held_after("INTO orders") as transaction:
        write = asyncio.create_task(sink.write(batch(order(1), order(2))))
        await transaction.reached.wait()
        await own_server.kill()
        transaction.released.set()
        with pytest.raises(SinkUnavailable):
            await write
        await own_server.start()
        assert (postgres.count("orders"), postgres.count("write_batcher_ledger")) == (0, 0)

        assert outcomes(await sink.write(batch(order(1), order(2)))) == [Outcome.WRITTEN] * 2
    assert postgres.count("orders") == 2


async def test_server_killed_while_it_has_a_whole_batch_has_written_nothing(own_server: PostgresServer) -> None:
    postgres = PostgresDatabase.fresh(own_server)
    async with postgres.sink() as sink:
        slow_down(postgres, "orders", 60)
        write = asyncio.create_task(sink.write(batch(order(1), order(2))))
        running = (
            "SELECT 1 FROM pg_stat_activity "
            "WHERE state = 'active' AND query LIKE '%INTO orders%wb_rows%' AND pid <> pg_backend_pid()"
        )
        await eventually(lambda: len(postgres.query(running)))
        await own_server.kill()
        with pytest.raises(SinkUnavailable):
            await write
        await own_server.start()
        assert (postgres.count("orders"), postgres.count("write_batcher_ledger")) == (0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="a frozen process of another user can be woken up only by root")
async def test_frozen_server_is_unavailable_within_the_limit(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "SETTLE_LIMIT", timedelta(seconds=0.3))
    monkeypatch.setattr(sql, "WRITE_LIMIT", timedelta(seconds=0.3))
    monkeypatch.setattr(sql, "CANCEL_GRACE", timedelta(seconds=0.3))
    for ask in (lambda: sink.settle(order(1), queue=QUEUE), lambda: sink.write(batch(order(1)))):
        await sink.prune()  # connects
        with frozen(postgres):
            begun = time.monotonic()
            with pytest.raises(SinkUnavailable, match=r"no answer within 0\.3 s"):
                await ask()
            assert time.monotonic() - begun < 3

    # The server may still be busy with the cancelled statement.
    monkeypatch.setattr(sql, "SETTLE_LIMIT", timedelta(seconds=10))
    assert (await sink.settle(order(1), queue=QUEUE)).outcome is Outcome.WITHDRAWN


@contextmanager
def frozen(postgres: PostgresDatabase) -> Iterator[None]:
    """Freeze the server processes that serve the sink."""
    pids = postgres.query(
        f"SELECT pid FROM pg_stat_activity WHERE application_name = 'write-batcher' AND datname = '{postgres.name}'"
    )
    assert pids
    try:
        for (pid,) in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for (pid,) in pids:
            os.kill(pid, signal.SIGCONT)


async def test_locked_ledger_is_unavailable_until_it_is_free(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_write, "BATCH_LOCK_WAIT", timedelta(milliseconds=50))
    monkeypatch.setattr(batch_write, "ROW_LOCK_WAIT", timedelta(milliseconds=5))
    monkeypatch.setattr(sql, "LOCK_WAIT", timedelta(milliseconds=50))
    requests = [order(number) for number in range(100)]
    with postgres.connect() as other, other.transaction():
        other.execute("LOCK TABLE write_batcher_ledger")
        with pytest.raises(SinkUnavailable, match=r"ledger is locked: .* lock timeout"):
            await sink.write(batch(*requests))
        with pytest.raises(SinkUnavailable, match="lock timeout"):
            await sink.settle(order(1), queue=QUEUE)

    assert set(outcomes(await sink.write(batch(*requests)))) == {Outcome.WRITTEN}


async def test_statement_that_takes_too_long_is_ended(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "STATEMENT_TIMEOUT", timedelta(seconds=1))
    postgres.execute("CREATE RULE slow AS ON INSERT TO orders DO ALSO SELECT pg_sleep(30)")
    async with postgres.sink() as sink:
        with pytest.raises(BatchTooLarge, match="statement timeout"):
            await sink.write(batch(order(1), order(2)))
        (held,) = await sink.write(batch(order(1)))

    assert "statement timeout" in reason(held)
    assert (postgres.count("orders"), postgres.count("write_batcher_ledger")) == (0, 0)
