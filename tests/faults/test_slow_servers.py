"""A server replies late: callers wait longer, and that is all."""

import pytest

from tests.faults.conftest import OpenArena
from tests.support.proxy import Proxy
from tests.support.target_databases import PostgresDatabase

CALLERS = 24  # three batches and more
DELAY_S = 0.5  # of each reply; a receipt takes at least one from each server
MIN_REPLIES = 12  # a batch takes more than four from the database


@pytest.mark.parametrize("server", ["redis", "temporal", "database"])
async def test_slow_server_only_delays_receipts(
    open_arena: OpenArena, postgres_target: PostgresDatabase, server: str
) -> None:
    async with open_arena(postgres_target) as arena:
        await arena.start_workers()
        proxy: Proxy = getattr(arena, f"{server}_proxy")
        proxy.delay_s = DELAY_S
        for _ in range(CALLERS // 2):  # not all at once: some requests arrive while replies are held back
            await arena.start_callers(2)
        outcomes = await arena.audit()
        assert outcomes.completed == CALLERS
        assert proxy.delayed_s >= MIN_REPLIES * DELAY_S
        assert min(result.latency_ms for result in outcomes.results.values()) >= DELAY_S * 1000
