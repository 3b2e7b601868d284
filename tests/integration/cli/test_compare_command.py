"""A whole comparison as a user runs it, and what it saves of its measurements."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from temporalio.client import Client, WorkflowExecutionStatus

from tests.support.command import run_command
from tests.support.target_databases import PostgresDatabase
from write_batcher.compare.comparison import Comparison, runs_with_broken_promises
from write_batcher.compare.contenders import design_of
from write_batcher.compare.contenders.design import Order
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.results import Contender, Results, Run, Scenario
from write_batcher.compare.scale import Scale, Step
from write_batcher.compare.scenarios.measurement import Measurement
from write_batcher.config import load_settings
from write_batcher.errors import WorkerEnded
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.temporal_server import TemporalServer


class NoView:
    def begin(self, what: str) -> None:
        pass

    def end(self, run: Run) -> None:
        pass

    def expect(self, total: int) -> None:
        pass

    def advance(self, number: int = 1) -> None:
        pass


class StubbedComparison(Comparison):
    """A comparison without measuring: `answers` holds the figures of each contender, or the error to raise."""

    answers: dict[Contender, dict[str, float | None] | BaseException]

    async def _baseline(self, step: Step) -> Baseline:
        return Baseline(actions=3.0, events=17.0, bytes=2000.0)

    async def _measure(self, step: Step, contender: Contender, baseline: Baseline) -> Measurement:
        answer = self.answers[contender]
        if isinstance(answer, BaseException):
            raise answer
        return Measurement(figures=answer)


def stubbed(folder: Path, **answers: Any) -> StubbedComparison:
    scale = Scale(
        scenarios=(Scenario.LOAD,), databases=("sqlite",), contenders=tuple(Contender(name) for name in answers)
    )
    comparison = StubbedComparison(scale, load_settings(), folder, NoView())
    comparison.answers = {Contender(name): answer for name, answer in answers.items()}
    return comparison


async def test_failed_run_is_kept_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    comparison = stubbed(tmp_path, direct=WorkerEnded("the main worker ended"), queue={"lost": 0.0})
    await comparison.run()
    saved = {run.contender: run for run in Results.load(tmp_path).runs}
    assert saved[Contender.DIRECT].figures == {}
    assert saved[Contender.DIRECT].notes == ["not measured: WorkerEnded: the main worker ended"]
    assert saved[Contender.QUEUE].figures == {"lost": 0.0}


async def test_what_was_measured_before_an_interruption_is_saved(tmp_path: Path) -> None:
    comparison = stubbed(tmp_path, direct={"lost": 0.0}, queue=asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await comparison.run()
    first = comparison.results.runs
    assert [run.contender for run in first] == [Contender.DIRECT]
    assert Results.load(tmp_path).runs == first


async def test_only_lost_and_doubled_rows_of_this_library_break_a_promise(tmp_path: Path) -> None:
    comparison = stubbed(tmp_path, direct={"lost": 1.0, "duplicates": 2.0}, queue={"lost": 0.0, "duplicates": 0.0})
    assert runs_with_broken_promises(await comparison.run()) == []
    for broken in ("lost", "duplicates", "failed_written"):
        comparison = stubbed(tmp_path, queue={broken: 1.0})
        assert [run.contender for run in runs_with_broken_promises(await comparison.run())] == [Contender.QUEUE]


async def test_comparison_interrupted_before_a_run_leaves_its_folder_empty(
    tmp_path: Path,
) -> None:
    comparison = stubbed(tmp_path, queue=asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await comparison.run()
    comparison._save([])  # as after the baseline
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - no matter of an event loop


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["lood"], ["no scenario 'lood'", "load, growth, ceiling"]),
        (
            ["run", "load", "--contenders", "que"],
            ["no contender 'que'", "direct-pooled, signal, queue, queue-completion"],
        ),
        (["--own-servers", "--databases", "postgresql"], ["requires embedded servers", "names sqlite"]),
        (["report", "no/such/folder"], ["no/such/folder"]),
        (["load", "--max-items", "1001"], ["--max-items 1001", "signal, whose batches hold 1000 requests at most"]),
    ],
)
async def test_wrong_usage_names_the_value_and_what_is_allowed(
    arguments: list[str], wanted: list[str], tmp_path: Path
) -> None:
    status, output, errors = await run_command("compare", *arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    for part in wanted:
        assert part in errors


async def test_malformed_database_url_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    status, output, errors = await run_command(
        "compare", "--own-servers", environment={"WRITE_BATCHER_DATABASE_URL": "nonsense"}
    )
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "database URL cannot be parsed" in errors


@pytest.mark.parametrize("contender", [Contender.DIRECT, Contender.QUEUE])
async def test_clean_up_ends_callers_that_an_interrupted_run_left_running(
    contender: Contender, client: Client, redis_server: RedisServer, name: str
) -> None:
    design = design_of(contender)
    settings = load_settings(
        redis_url=redis_server.url,
        queue=name,
        main_task_queue=f"{name}-main",
        batcher_task_queue=f"{name}-batcher",
    )
    orders = [Order(workflow_id=f"{name}-{number}", item="tea", cents=1) for number in range(3)]
    callers = [await design.start(client, settings, order) for order in orders]
    async with asyncio.timeout(30):
        await design.clean_up(client, settings)
    ended = [(await caller.describe()).status for caller in callers]
    assert ended == [WorkflowExecutionStatus.TERMINATED] * 3


@pytest.mark.thorough
async def test_comparison_on_own_servers_leaves_out_what_only_embedded_ones_tell(
    temporal_server: TemporalServer, postgres: PostgresDatabase, tmp_path: Path
) -> None:
    secrets = ("redis-s3cret", "temporal-s3cret", str(make_url(postgres.url).password))
    chosen = ("--contenders", "queue", "--workflows", "5", "--max-wait", "500ms", "--own-servers")
    async with RedisServer(tmp_path / "guarded", password=secrets[0]) as redis_server:
        environment = {
            "TEMPORAL_ADDRESS": temporal_server.address,
            "TEMPORAL_API_KEY": secrets[1],
            "TEMPORAL_TLS": "false",
            "WRITE_BATCHER_REDIS_URL": redis_server.url,
            "WRITE_BATCHER_DATABASE_URL": postgres.url,
        }
        status, output, errors = await run_command(
            "compare", "load", *chosen, "--out", str(tmp_path / "results"), environment=environment, within_s=110
        )
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith("[1/1] load, postgresql, queue: rows 5, failed 0, lost 0, duplicates 0")
    assert lines[-1] == f"report: {tmp_path / 'results' / 'report.html'}"
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    [measured] = results["runs"]
    assert (measured["figures"]["actions_per_write"], measured["figures"]["server_cpu_ms_per_write"]) == (None, None)
    assert 1 <= measured["figures"]["transactions"] <= 5
    assert measured["figures"]["events_per_write"] >= 12
    assert {"Temporal server", "PostgreSQL", "temporalio"} <= results["versions"].keys()
    assert results["settings"]["servers"] == "own"
    files = [file.read_bytes() for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert [secret for secret in secrets if secret.encode() in b"".join([output.encode(), *files])] == []
