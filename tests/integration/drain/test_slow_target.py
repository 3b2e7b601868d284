"""A PostgreSQL that is slow, and a target latency: smaller batches, or fewer of them, until it recovers."""

from collections.abc import AsyncIterator
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

TARGET_LATENCY_MS = 100
PER_ROW_S = 0.005
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


async def test_rows_that_are_slow_make_smaller_batches(
    stage: Stage, sink: Observed, postgres: PostgresDatabase
) -> None:
    postgres.execute(SLOW_ROWS)
    await append(stage, 0, 600)
    async with stage.draining():
        await eventually(stage.is_empty)
        sizes = sorted(sink.sizes[5:])
        assert 8 <= sizes[len(sizes) // 2] <= 30  # 20 rows take as long as a transaction should
        postgres.execute("DROP TRIGGER slow ON orders")
        await append(stage, 1_000, 3_000)
        await eventually(stage.is_empty)
    assert sink.sizes[-5:-1].count(100) >= 3
    assert postgres.count("orders") == 3_600


async def test_latency_that_no_batch_size_helps_makes_fewer_of_them(
    stage: Stage, sink: Observed, proxy: Proxy, postgres: PostgresDatabase
) -> None:
    proxy.delay_s = 0.15
    await append(stage, 0, 300)
    async with stage.draining() as running:
        await eventually(lambda: "a rest" in (running.drain.details().throttled or ""), within_s=30)
        proxy.delay_s = 0.0
        await append(stage, 1_000, 6_000)
        await eventually(stage.is_empty)
        await eventually(lambda: running.drain.details().throttled is None, within_s=30)
    assert postgres.count("orders") == 6_300
