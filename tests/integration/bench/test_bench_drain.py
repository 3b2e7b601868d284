"""The benchmark of the drain on a real Valkey and SQLite: the shape of its answer, not its figures."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.converter import DataConverter

from tests.support.command import run_command
from write_batcher.bench.cases import TRAITS, Case
from write_batcher.bench.contestants import Contestant, Floor, Ours, Track
from write_batcher.bench.filled_queue import FilledQueue, fill
from write_batcher.bench.floors.sqlite_inserts import executemany
from write_batcher.bench.fresh_databases import fresh_sqlite
from write_batcher.errors import WrongWork
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.redis_server import RedisServer

REQUESTS, BATCH_SIZE = 250, 100  # the last batch is not full
PLAIN = TRAITS[Case.PLAIN]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case is Case.PLAIN else pytest.mark.thorough) for case in Case]
)
async def test_bench_drain_prints_one_json_object_only(case: Case, tmp_path: Path) -> None:
    status, output, errors = await run_command(
        *("bench", "drain", "--case", case, "--database", "sqlite", "--rounds", "2"),
        *("--requests", str(REQUESTS), "--batch-size", str(BATCH_SIZE), "--json", "--out", str(tmp_path / "out")),
        within_s=100,
    )
    assert status == 0, errors
    results = json.loads(output)
    assert json.loads((tmp_path / "out" / f"drain-{case}.json").read_text()) == results
    duel = results["databases"]["sqlite"]
    assert duel["ratio"] > 0
    assert duel["floor"] in duel["floors"]
    assert len(duel["ours"]["rows_per_s"]["rounds"]) == 2
    assert (results["case"], results["grouped_by"]) == (case, "database")
    assert (results["settings"]["requests"], results["settings"]["batch_size"]) == (REQUESTS, BATCH_SIZE)
    assert {"Valkey", "SQLite", "write-batcher"} <= results["versions"].keys()


async def test_bench_refuses_a_wrong_argument_with_status_2() -> None:
    status, output, errors = await run_command("bench", "drain", "--rounds", "many")
    assert (status, output) == (2, "")
    assert "Option --rounds 'many' is not a whole number: give one from 1 to 1000." in errors


@pytest.fixture
async def track(tmp_path: Path) -> AsyncIterator[Track]:
    async with RedisServer(tmp_path) as server, connect(server.url) as redis:
        yield Track(
            redis=redis,
            redis_url=server.url,
            servers={"redis": server.pid},
            kind="sqlite",
            new_database=lambda shape: fresh_sqlite(tmp_path, shape),
            batch_size=BATCH_SIZE,
            converter=DataConverter.default,
        )


async def filled(track: Track) -> FilledQueue:
    return await fill(track.redis, "filled", PLAIN, track.converter, requests=REQUESTS, batch_size=track.batch_size)


@pytest.mark.parametrize(
    "contestant", [Ours(traits=PLAIN), Floor(traits=PLAIN, insert=executemany)], ids=["ours", "floor"]
)
async def test_measurement_of_too_few_rows_is_an_error(contestant: Contestant, track: Track) -> None:
    queue = await filled(track)
    assert (await contestant.run(track, queue)).count == REQUESTS
    with pytest.raises(WrongWork, match=f"{REQUESTS}"):
        await contestant.run(track, replace(queue, requests=REQUESTS + 1))
