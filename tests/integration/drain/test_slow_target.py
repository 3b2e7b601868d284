"""A PostgreSQL that is slow, and a target latency: smaller batches, or fewer of them, until it recovers."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import make_url

from tests.support.drain_stage import CODEC, NEVER, BreakableSink, Stage
from tests.support.fakes import contract_of
from tests.support.proxy import Proxy
from tests.support.target_databases import PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.models import Batch, Held, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.sink import SqlSink

TARGET_LATENCY_MS = 200
PER_ROW_S = 0.01
SLOW_ROWS = f"""
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_sleep({PER_ROW_S}); RETURN new; END $$;
CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION slow();
"""


class Observed:
    """A sink whose batches are counted."""

    def __init__(self, sink: SqlSink) -> None:
        self._sink = sink
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    async def write(self, batch: Batch) -> list[WriteReceipt | Held]:
        self.sizes.append(len(batch.requests))
        return await self._sink.write(batch)


@pytest.fixture
async def proxy(postgres: PostgresDatabase) -> AsyncIterator[Proxy]:
    async with Proxy(cast(int, make_url(postgres.url).port)) as proxy:
        yield proxy


@pytest.fixture
async def sink(postgres: PostgresDatabase, proxy: Proxy, stage: Stage) -> AsyncIterator[Observed]:
    """The sink of the stage, behind the proxy."""
    url = make_url(postgres.url).set(host="127.0.0.1", port=proxy.port)
    async with SqlSink.open(url.render_as_string(hide_password=False), tables=["orders"]) as sink:
        observed = Observed(sink)
        stage.max_wait = NEVER  # full batches only
        stage.sink = cast(BreakableSink, observed)
        stage.contract = replace(contract_of(sink), target_latency_ms=TARGET_LATENCY_MS)
        yield observed


async def append(stage: Stage, first: int, count: int) -> None:
    requests = [
        WriteRequest(request_id=f"{number}", table="orders", record={"order_id": number, "cents": 1})
        for number in range(first, first + count)
    ]
    await stage.queue.append_all([await CODEC.encode(request) for request in requests], max_backlog=10_000)


async def full_batches_until(stage: Stage, check: Callable[[], bool]) -> int:
    """Append one full batch after the other until `check` is true, whatever a busy machine does to one of them; returns
    how many rows that were.
    """
    rows = 0

    async def is_so_after_another_one() -> bool:
        nonlocal rows
        await append(stage, 10_000 + rows, stage.max_items)
        rows += stage.max_items
        await eventually(stage.is_empty)
        return check()

    await eventually(is_so_after_another_one, within_s=60)
    return rows


async def test_rows_that_are_slow_make_smaller_batches(
    stage: Stage, sink: Observed, postgres: PostgresDatabase
) -> None:
    postgres.execute(SLOW_ROWS)
    await append(stage, 0, 600)
    async with stage.draining():
        await eventually(stage.is_empty, within_s=60)
        sizes = sorted(sink.sizes[5:])
        assert 8 <= sizes[len(sizes) // 2] <= 30  # 20 rows take as long as a transaction should
        postgres.execute("DROP TRIGGER slow ON orders")
        rows = await full_batches_until(stage, lambda: sink.sizes[-3:] == [100] * 3)
    assert postgres.count("orders") == 600 + rows


async def test_latency_that_no_batch_size_helps_makes_fewer_of_them(
    stage: Stage, sink: Observed, proxy: Proxy, postgres: PostgresDatabase
) -> None:
    proxy.delay_s = 0.15
    await append(stage, 0, 300)
    async with stage.draining() as running:
        await eventually(lambda: "a rest" in (running.drain.details().throttled or ""), within_s=30)
        proxy.delay_s = 0.0
        rows = await full_batches_until(stage, lambda: running.drain.details().throttled is None)
    assert postgres.count("orders") == 300 + rows
