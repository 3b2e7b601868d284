"""The benchmark of appending on a real Valkey: the shape of its answer, not its figures."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.bench_runs import bench, figures_of
from write_batcher.bench.append_benchmark import Appends, announce_contract
from write_batcher.bench.append_plan import AppendPlan
from write_batcher.errors import WrongWork
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.redis_server import RedisServer

REQUESTS = 250  # the last hundred is not full


async def test_bench_append_compares_one_by_one_and_many_at_once(tmp_path: Path) -> None:
    results = await bench(tmp_path / "out", "append", "--rounds", "2", "--requests", str(REQUESTS), "--tasks", "7")
    assert list(results["groups"]) == ["one by one", "100 at once"]
    for duel in results["groups"].values():
        ours, theirs = figures_of(duel)
        assert ours == theirs == {"appends_per_s", "cpu_us_per_append", "redis_cpu_us_per_append"}
        assert len(duel["ratio_spread"]["rounds"]) == 2


async def test_stream_with_another_number_of_entries_is_an_error(tmp_path: Path) -> None:
    plan = AppendPlan(rounds=1, requests=REQUESTS, tasks=5)
    async with RedisServer(tmp_path) as server, connect(server.url) as redis:
        await announce_contract(redis, max_backlog=REQUESTS)
        appends = await Appends.prepare(redis, {"redis": server.pid}, REQUESTS, plan)
        for measure in appends.contestants().values():
            assert (await measure())["appends_per_s"] > 0
        fewer = replace(appends, fields=appends.fields[1:])
        for name in ("ours, one by one", "ours, 100 at once"):
            with pytest.raises(WrongWork, match=f"has {REQUESTS} entries, {REQUESTS - 1} of them as appended"):
                await fewer.contestants()[name]()


async def test_request_that_is_refused_is_an_error(tmp_path: Path) -> None:
    plan = AppendPlan(rounds=1, requests=REQUESTS, tasks=5)
    async with RedisServer(tmp_path) as server, connect(server.url) as redis:
        await announce_contract(redis, max_backlog=REQUESTS - 1)
        appends = await Appends.prepare(redis, {"redis": server.pid}, REQUESTS, plan)
        with pytest.raises(WrongWork, match="A request was not appended"):
            await appends.contestants()["ours, one by one"]()
