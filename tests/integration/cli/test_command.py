"""The command as a user runs it: real processes, their output and their exit status."""

import asyncio
import json
import signal
import socket
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from temporalio.client import Client

from tests.support.batchers import some_terms
from tests.support.command import CLEAN_ENVIRONMENT, run_command
from tests.support.redis_kinds import AnyRedis
from tests.support.waiting import eventually
from write_batcher.config import load_settings
from write_batcher.models import QueueRef
from write_batcher.queue.contract import ContractStore
from write_batcher.workers.embedded.main_writes import count_rows
from write_batcher.workers.embedded.starter import new_series, start_workflows, wait_for
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workers.embedded.worker_process import WorkerProcess


@pytest.fixture
def environment(
    temporal_server: TemporalServer, redis_server: AnyRedis, database_url: str, name: str
) -> dict[str, str]:
    """Points the command to the servers of the tests, and to queues that no other test uses."""
    return {
        "TEMPORAL_ADDRESS": temporal_server.address,
        "WRITE_BATCHER_REDIS_URL": redis_server.url,
        "WRITE_BATCHER_DATABASE_URL": database_url,
        "WRITE_BATCHER_QUEUE": name,
        "WRITE_BATCHER_MAIN_TASK_QUEUE": f"{name}-main",
        "WRITE_BATCHER_BATCHER_TASK_QUEUE": f"{name}-batcher",
        "WRITE_BATCHER_MAX_WAIT": "500ms",
        "WRITE_BATCHER_LOG_FORMAT": "json",
    }


async def ignore(_worker: str, _record: dict[str, object]) -> None:
    pass


async def test_demo_counts_every_row_once_and_keeps_the_batch_limit() -> None:
    status, output, errors = await run_command(
        "demo", "--workflows", "40", "--max-items", "10", "--max-wait", "1s", "--partitions", "2", "--json"
    )
    *lines, last = output.splitlines()
    report = json.loads(last)
    assert (status, errors) == (0, "")
    assert {name: report[name] for name in ("workflows", "completed", "failed", "rows", "duplicates")} == {
        "workflows": 40,
        "completed": 40,
        "failed": 0,
        "rows": 40,
        "duplicates": 0,
    }
    sizes = [int(line.split()[2]) for line in lines]
    assert sum(sizes) == 40
    assert max(sizes) <= 10
    assert report["batches"] == report["transactions"] == sum(report["flush_reasons"].values()) == len(sizes)
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]


@pytest.mark.thorough
async def test_demo_in_a_named_folder_keeps_data_and_counts_only_its_own_rows(tmp_path: Path) -> None:
    for _ in range(2):
        status, output, _errors = await run_command(
            "demo", "--workflows", "3", "--max-wait", "500ms", "--data", str(tmp_path / "data"), "--json"
        )
        report = json.loads(output.splitlines()[-1])
        assert (status, report["rows"], report["duplicates"]) == (0, 3, 0)
    assert await count_rows(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'write-batcher.db'}", "main-") == (6, 0)


@pytest.mark.parametrize(
    ("arguments", "environment", "wanted"),
    [
        (["demo", "--max-items", "-5"], {}, ["max_items = -5", "--max-items", "WRITE_BATCHER_MAX_ITEMS"]),
        (["demo", "--max-wait", "20"], {}, ["max_wait = 20", "500ms, 20s, 2m"]),
        (["demo", "--max-wait", "2m"], {}, ["max_wait (120s)", "below confirm_timeout (120s)"]),
        (["demo"], {"WRITE_BATCHER_MAX_ITEM": "5"}, ["WRITE_BATCHER_MAX_ITEM", "mean WRITE_BATCHER_MAX_ITEMS?"]),
        (["demo"], {"WRITE_BATCHER_SIGNING_KEY": "hunter2"}, ["signing_key", "needs 16 or more"]),
        (["worker", "main", "--redis-url", "localhost"], {}, ["redis_url = localhost", "redis://HOST:PORT/DB"]),
        (["demo", "--max-wait", "99999999999999d"], {}, ["99999999999999d", "longer than any duration"]),
        (["worker", "main"], {"TEMPORAL_ADDRESS": "127.0.0.1:1"}, ["Temporal at 127.0.0.1:1", "TEMPORAL_ADDRESS"]),
        (["start"], {"TEMPORAL_ADDRESS": "127.0.0.1:1"}, ["Temporal at 127.0.0.1:1", "TEMPORAL_ADDRESS"]),
    ],
)
async def test_wrong_usage_ends_with_one_sentence_and_status_2(
    arguments: list[str], environment: dict[str, str], wanted: list[str]
) -> None:
    status, output, errors = await run_command(*arguments, environment=environment)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    for part in wanted:
        assert part in errors


async def test_help_of_a_setting_shows_its_variable_and_its_default_if_any() -> None:
    status, output, _errors = await run_command("worker", "batcher", "--help", environment={"COLUMNS": "400"})
    assert status == 0
    assert "(WRITE_BATCHER_QUEUE, default: default)" in output
    assert "(WRITE_BATCHER_BATCHER_TASK_QUEUE)" in output


async def test_batcher_worker_names_what_is_wrong_with_redis_and_database(environment: dict[str, str]) -> None:
    wrong = {
        "WRITE_BATCHER_REDIS_URL": ("redis://:secret@127.0.0.1:1/0", "Redis at redis://:***@127.0.0.1:1/0"),
        "WRITE_BATCHER_DATABASE_URL": ("sqlite+aiosqlite:////no/such/folder/x.db", "/no/such/folder/x.db"),
        "WRITE_BATCHER_TABLES": ("orders", "'orders' is missing"),
    }
    for variable, (value, wanted) in wrong.items():
        status, _output, errors = await run_command("worker", "batcher", environment=environment | {variable: value})
        assert status == 2
        assert wanted in errors
        assert "Traceback" not in errors
        assert "secret" not in errors


async def test_batcher_with_default_settings_is_refused_by_a_queue_with_another_database(
    redis: Redis, environment: dict[str, str], name: str, tmp_path: Path
) -> None:
    """Whoever starts one without saying where it writes must not take over a queue."""
    queue = QueueRef(namespace="default", name=name)
    await ContractStore(redis, queue).announce("production", some_terms(sink_id="the-sink-of-production"))
    environment = {name: value for name, value in environment.items() if "DATABASE" not in name}
    status, _output, errors = await run_command("worker", "batcher", environment=environment, folder=tmp_path)
    assert status == 2
    last = errors.splitlines()[-1]
    assert f"Queue 'default/{name}' is written to the sink 'the-sink-of-production'" in last
    assert "--database-url" in last
    assert "`write-batcher queue move" in last


async def test_variables_of_kubernetes_and_long_waits_stop_no_batcher(
    redis: Redis, environment: dict[str, str], name: str
) -> None:
    environment |= {
        "WRITE_BATCHER_PORT": "tcp://10.0.0.11:80",
        "WRITE_BATCHER_SERVICE_HOST": "10.0.0.11",
        "WRITE_BATCHER_MAX_WAIT": "5m",  # above the confirm_timeout of MainWorkflow, which this process does not run
    }
    store = ContractStore(redis, QueueRef(namespace="default", name=name))
    serving = asyncio.Event()

    async def note(_role: str, record: dict[str, object]) -> None:
        if str(record["message"]).startswith("worker serves"):
            serving.set()

    async with WorkerProcess("batcher", CLEAN_ENVIRONMENT | environment, note) as worker, asyncio.timeout(60):
        await serving.wait()
        contract = await store.read()
        assert contract is not None
        assert contract.max_wait == timedelta(minutes=5)
        worker.send(signal.SIGTERM)
        assert await worker.wait() == 0
    assert await store.live_workers() == []


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("sqlite+aiosqlite:///none.db", "write_batcher_ledger"),
        ("postgresql+psycopg://nobody@no-such-host/none", "write_batcher_meta"),
    ],
)
async def test_schema_of_the_ledger_is_printed_without_connecting(url: str, wanted: str, tmp_path: Path) -> None:
    status, output, errors = await run_command("schema", "print", "--database-url", url, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert "CREATE TABLE" in output
    assert wanted in output


async def test_up_names_the_standard_port_that_is_taken() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", 6379))
            listener.listen()
        except OSError:
            pass  # something else listens there, which does as well
        status, _output, errors = await run_command("up")
    assert status == 2
    assert "6379" in errors or "7233" in errors or "8233" in errors


async def test_start_reports_on_workflows_that_separate_workers_ran(
    environment: dict[str, str], database_url: str
) -> None:
    async with AsyncExitStack() as stack:
        for role in ("main", "batcher"):
            await stack.enter_async_context(WorkerProcess(role, CLEAN_ENVIRONMENT | environment, ignore))
        status, output, errors = await run_command("start", "--workflows", "20", "--json", environment=environment)
        report = json.loads(output.splitlines()[-1])
        assert (status, report["completed"], report["failed"], errors) == (0, 20, 0, "")
        status, output, errors = await run_command("start", "--workflows", "5", "--no-wait", environment=environment)
        assert (status, errors) == (0, "")
        assert "started 5 workflows" in output

        async def all_written() -> bool:
            return await count_rows(database_url, "main-") == (25, 0)

        await eventually(all_written)


async def test_sigterm_of_a_busy_worker_loses_nothing_and_hands_over_at_once(
    client: Client, environment: dict[str, str], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    series = new_series()
    async with AsyncExitStack() as stack:

        async def batcher() -> tuple[WorkerProcess, asyncio.Event, asyncio.Event]:
            """A batcher worker, what tells that it has started, and what tells that it has written a batch."""
            started, written = asyncio.Event(), asyncio.Event()

            async def note(_role: str, record: dict[str, object]) -> None:
                started.set()
                if "batch" in record:
                    written.set()

            worker = WorkerProcess("batcher", CLEAN_ENVIRONMENT | environment, note)
            return await stack.enter_async_context(worker), started, written

        first, _started, first_wrote = await batcher()
        await stack.enter_async_context(WorkerProcess("main", CLEAN_ENVIRONMENT | environment, ignore))
        handles = await start_workflows(client, settings, f"{series}a-", 30, on_started=lambda: None)
        async with asyncio.timeout(60):
            await first_wrote.wait()
            _second, second_started, second_wrote = await batcher()
            await second_started.wait()
            handles += await start_workflows(client, settings, f"{series}b-", 30, on_started=lambda: None)
            stopped = time.monotonic()
            first.send(signal.SIGTERM)
            assert await first.wait() == 0
            ended = time.monotonic()
            assert ended - stopped < 8  # it does not use up its grace period
            await second_wrote.wait()
            assert time.monotonic() - ended < 8  # it need not wait for the heartbeat timeout
            outcomes = await wait_for(handles, on_ended=lambda: None)
    assert (outcomes.completed, outcomes.failed) == (60, 0)
    assert await count_rows(database_url, series) == (60, 0)
