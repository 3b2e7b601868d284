"""The commands of the older design as a user runs them, and what a killed batcher worker leaves behind."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client
from temporalio.service import RPCError

from tests.support.command import CLEAN_ENVIRONMENT, COMMAND, run_command
from tests.support.waiting import eventually
from write_batcher.compare.signal_batcher.roles import (
    make_batcher_worker,
    make_main_worker,
    start_main_workflows,
)
from write_batcher.config import load_settings
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.embedded import processes
from write_batcher.workers.embedded.main_writes import count_rows
from write_batcher.workers.embedded.starter import wait_for
from write_batcher.workers.embedded.temporal_server import TemporalServer

pytestmark = pytest.mark.thorough


@pytest.fixture
def environment(temporal_server: TemporalServer, database_url: str, name: str) -> dict[str, str]:
    """Points the commands to the Temporal server of the tests, and to queues that no other test uses; not to Redis."""
    return CLEAN_ENVIRONMENT | {
        "TEMPORAL_ADDRESS": temporal_server.address,
        "WRITE_BATCHER_REDIS_URL": "redis://127.0.0.1:1/0",
        "WRITE_BATCHER_DATABASE_URL": database_url,
        "WRITE_BATCHER_QUEUE": name,
        "WRITE_BATCHER_PARTITIONS": "2",
        "WRITE_BATCHER_MAIN_TASK_QUEUE": f"{name}-main",
        "WRITE_BATCHER_BATCHER_TASK_QUEUE": f"{name}-batcher",
        "WRITE_BATCHER_MAX_WAIT": "500ms",
        "WRITE_BATCHER_LOG_FORMAT": "json",
    }


@asynccontextmanager
async def worker(role: str, environment: dict[str, str], folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await processes.spawn(
        [*COMMAND, "signal-batcher", "worker", role], log=folder / f"{role}.log", environment=environment
    )
    try:
        yield process
    finally:
        await processes.stop(process)


async def run(*arguments: str, environment: dict[str, str]) -> tuple[str, str]:
    """Stdout and stderr of a command that succeeds."""
    status, output, errors = await run_command("signal-batcher", *arguments, environment=environment)
    assert status == 0, errors
    return output, errors


async def test_separate_workers_write_what_start_submits_and_monitor_shows_it(
    environment: dict[str, str], database_url: str, name: str, tmp_path: Path
) -> None:
    async with worker("main", environment, tmp_path), worker("batcher", environment, tmp_path):
        output, errors = await run("start", "--workflows", "20", "--json", environment=environment)
        report = json.loads(output.splitlines()[-1])
        assert (report["workflows"], report["completed"], report["failed"], errors) == (20, 20, 0, "")
        output, _ = await run("monitor", "--once", "--json", environment=environment)
        first, second = json.loads(output)["batchers"]
    assert await count_rows(database_url, "main-") == (20, 0)
    assert [first["batcher"], second["batcher"]] == [f"{name}/batcher-main", f"{name}/batcher-main-1"]
    assert first["session_signals_received"] + second["session_signals_received"] == 20
    assert first["processed_request_ids_count"] + second["processed_request_ids_count"] == 20
    assert (first["state"], first["pending_writes"], first["continue_as_new_cycle"]) == ("running", 0, 0)
    batches = [
        record["batch"]
        for record in map(json.loads, (tmp_path / "batcher.log").read_text().splitlines())
        if "batch" in record
    ]
    assert sum(batch["written"] for batch in batches) == sum(batch["size"] for batch in batches) == 20
    assert {batch["flush_reason"] for batch in batches} <= {"wait", "size"}


async def test_monitor_refreshes_until_it_is_stopped(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "monitor.log"
    process = await processes.spawn(
        [*COMMAND, "signal-batcher", "monitor", "--json", "--every", "100ms"], log=log, environment=environment
    )
    try:
        await eventually(lambda: log.read_text().count("batchers") >= 2, within_s=60)
    finally:
        await processes.stop(process)
    assert process.returncode == 0
    assert {"not running"} == {
        one["state"] for line in log.read_text().splitlines() for one in json.loads(line)["batchers"]
    }


@pytest.mark.thorough
async def test_batcher_worker_killed_in_mid_batch_loses_nothing(
    client: Client,
    environment: dict[str, str],
    database_url: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment["WRITE_BATCHER_PARTITIONS"] = "1"
    for variable, value in environment.items():
        if variable.startswith("WRITE_BATCHER_"):
            monkeypatch.setenv(variable, value)
    settings = load_settings()
    batcher = client.get_workflow_handle(f"{name}/batcher-main")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(make_main_worker(client, settings))
        first = await stack.enter_async_context(worker("batcher", environment, tmp_path))
        await eventually(lambda: _is_running(client, batcher.id), within_s=60)
        with closing(sqlite3.connect(tmp_path / "target.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # so that the batch is written but cannot be committed
            handles = await start_main_workflows(client, settings, f"{name}-", 20, on_started=lambda: None)

            async def is_writing() -> bool:
                pending = (await batcher.describe()).raw_description.pending_activities
                return any(one.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED for one in pending)

            await eventually(is_writing, within_s=60)
            await processes.kill(first)
            other.execute("ROLLBACK")
        sink = await stack.enter_async_context(SqlSink.open(database_url, tables=settings.tables))
        await stack.enter_async_context(make_batcher_worker(client, settings, sink))
        async with asyncio.timeout(60):
            outcomes = await wait_for(handles, on_ended=lambda: None)
    assert first.returncode == -9
    assert (outcomes.completed, outcomes.failed) == (20, 0)
    assert await count_rows(database_url, f"{name}-") == (20, 0)


async def _is_running(client: Client, workflow_id: str) -> bool:
    try:
        await client.get_workflow_handle(workflow_id).describe()
    except RPCError:
        return False
    return True
