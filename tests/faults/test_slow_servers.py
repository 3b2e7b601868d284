"""A server answers late: callers wait longer, and that is all."""

import pytest

from tests.faults.conftest import OpenArena
from tests.support.proxy import Proxy
from tests.support.target_databases import PostgresDatabase

CALLERS = 24  # three batches and more
DELAY_S = 0.5  # of each answer; no caller learns of its write without one of each server
ANSWERS = 12  # at least: a batch takes more than four of the database


@pytest.mark.parametrize("server", ["redis", "temporal", "database"])
async def test_slow_server_is_only_slow(open_arena: OpenArena, postgres_target: PostgresDatabase, server: str) -> None:
    async with open_arena(postgres_target) as arena:
        await arena.run_both()
        proxy: Proxy = getattr(arena, f"{server}_proxy")
        proxy.delay_s = DELAY_S
        for _ in range(CALLERS // 2):  # some of them come while an answer is on its way
            await arena.start(2)
        told = await arena.audit()
        assert told.completed == CALLERS
        assert proxy.delayed_s >= ANSWERS * DELAY_S
        assert min(result.latency_ms for result in told.results.values()) >= DELAY_S * 1000
