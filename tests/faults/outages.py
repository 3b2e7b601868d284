"""Outages that last as long as a `with` block: servers killed, frozen, locked, misconfigured, cut off or crowded."""

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tests.support.proxy import Network, Proxy
from tests.support.target_databases import Database, PostgresDatabase, SqliteDatabase
from write_batcher.workers.embedded.server import Server

CROWD = 100  # tasks that call Temporal without a pause


@asynccontextmanager
async def killed(server: Server) -> AsyncIterator[None]:
    """The server is killed, and started again at the end."""
    await server.kill()
    yield
    await server.start()


@asynccontextmanager
async def frozen(server: Server) -> AsyncIterator[None]:
    """The server and its children keep their connections and answer nothing: PostgreSQL has a process for each."""
    stopped: list[int] = []
    try:
        for pid in _with_children(server.pid):
            os.kill(pid, signal.SIGSTOP)  # the parent first, so that it starts no more of them
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):  # a child that was ending anyway
                os.kill(pid, signal.SIGCONT)


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)


@asynccontextmanager
async def cut_off(proxy: Proxy, network: Network) -> AsyncIterator[None]:
    """The network to the server behind `proxy` is broken in this way."""
    proxy.become(network)
    yield
    proxy.become(Network.UP)


@asynccontextmanager
async def crowded(client: Client) -> AsyncIterator[None]:
    """Other clients use up the namespace's rate limit, with calls of the same priority as confirmations."""
    unheard_signal = SignalWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id="no such workflow"),
        signal_name="x",
    )

    async def call_for_ever() -> None:
        while True:
            with contextlib.suppress(RPCError):
                await client.workflow_service.signal_workflow_execution(unheard_signal)

    calling = [asyncio.create_task(call_for_ever()) for _ in range(CROWD)]
    try:
        yield
    finally:
        for task in calling:
            task.cancel()
        await asyncio.wait(calling)


@asynccontextmanager
async def configured(redis: Redis, **values: str) -> AsyncIterator[None]:
    """Redis has these settings, and its old ones at the end."""
    before: dict[str, Any] = {name: (await redis.config_get(name)) for name in values}
    for name, value in values.items():
        await redis.config_set(name, value)
    try:
        yield
    finally:
        for name, answer in before.items():
            await redis.config_set(name, *answer.values())


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Another connection holds a lock that keeps everyone else from writing to the table."""
    if isinstance(database, PostgresDatabase):
        with database.connect() as other, other.transaction():
            other.execute("LOCK TABLE main_writes IN ACCESS EXCLUSIVE MODE")
            yield
    elif isinstance(database, SqliteDatabase):
        with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")
