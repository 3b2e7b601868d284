"""Ending a worker: within 25 seconds of SIGTERM, whatever does not answer then."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from tests.faults.outages import frozen
from tests.support.waiting import eventually
from write_batcher.config import load_settings
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.starter import start_workflows
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workers.embedded.worker_process import WorkerProcess, environment_of
from write_batcher.workers.serving import closed_in_time, serve

ENDS_WITHIN_S = 25  # Kubernetes kills after 30


@activity.defn
async def nothing() -> None: ...


async def test_failure_beside_the_worker_ends_it_and_is_raised(client: Client, name: str) -> None:
    async def fail() -> None:
        raise ValueError("the queue belongs to another sink")

    worker = Worker(client, task_queue=name, activities=[nothing])
    async with asyncio.timeout(ENDS_WITHIN_S):
        with pytest.raises(ValueError, match="the queue belongs to another sink"):
            await serve(worker, beside=fail())
    assert not worker.is_running


async def test_what_runs_beside_the_worker_runs_until_it_is_shut_down(client: Client, name: str) -> None:
    cancelled_while_running: list[bool] = []

    async def keep() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled_while_running.append(worker.is_running)

    worker = Worker(client, task_queue=name, activities=[nothing])
    serving = asyncio.create_task(serve(worker, beside=keep()))
    await eventually(lambda: worker.is_running)
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(ENDS_WITHIN_S):
        await serving
    assert cancelled_while_running == [False]


async def test_closing_that_hangs_or_fails_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def hanging() -> AsyncIterator[str]:
        yield "open"
        await asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def failing() -> AsyncIterator[str]:
        yield "open"
        raise OSError("connection reset")

    async with asyncio.timeout(ENDS_WITHIN_S):
        async with closed_in_time("database", hanging()) as one, closed_in_time("Redis", failing()) as other:
            assert (one, other) == ("open", "open")
    assert "database is not closed after 1 s" in caplog.text
    assert "Redis could not be closed" in caplog.text


@pytest.mark.parametrize(
    "server_name",
    [
        "Temporal",
        pytest.param("Redis", marks=pytest.mark.thorough),
        pytest.param("PostgreSQL", marks=pytest.mark.thorough),
    ],
)
async def test_sigterm_ends_both_workers_in_time_when_a_server_is_frozen(tmp_path: Path, server_name: str) -> None:
    async with AsyncExitStack() as stack:
        servers: dict[str, Any] = {
            "Temporal": TemporalServer(tmp_path / "temporal", in_memory=True),
            "Redis": RedisServer(tmp_path / "redis"),
            "PostgreSQL": PostgresServer(tmp_path / "postgres"),
        }
        for server in servers.values():
            await stack.enter_async_context(server)
        settings = load_settings(
            redis_url=servers["Redis"].url,
            database_url=servers["PostgreSQL"].url(),
            max_wait="100ms",
            log_format="json",
        )
        environment = environment_of(settings, servers["Temporal"].address)
        wrote = asyncio.Event()

        async def note(_role: str, record: dict[str, Any]) -> None:
            if "batch" in record:
                wrote.set()

        workers = [WorkerProcess(role, environment, note) for role in ("main", "batcher")]
        for worker in workers:
            await stack.enter_async_context(worker)
        client = await Client.connect(servers["Temporal"].address)
        async with asyncio.timeout(60):
            await start_workflows(client, settings, "a-", 5, on_started=lambda: None)
            await wrote.wait()
            await start_workflows(client, settings, "b-", 50, on_started=lambda: None)
        async with frozen(servers[server_name]):
            began = time.monotonic()
            for worker in workers:
                worker.send(signal.SIGTERM)
            async with asyncio.timeout(60):
                statuses = [await worker.wait() for worker in workers]
            took_s = time.monotonic() - began
    assert statuses == [0, 0], [worker.end_report() for worker in workers]
    assert took_s < ENDS_WITHIN_S
