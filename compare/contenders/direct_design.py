"""One activity, one connection and one transaction per write, and the baseline, which writes nothing."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from write_batcher import Settings, connect_temporal, serve
from write_batcher.compare.caller_steps import SHUTDOWN_TIMEOUT, work, workflow_runner
from write_batcher.compare.contenders.callers import BaselineWorkflow, CallerInput, DirectWorkflow, DirectWrite
from write_batcher.compare.contenders.design import MAIN, Design, Order, Push, PushRefused
from write_batcher.workers.embedded.main_writes import MAIN_WRITES

POOL_SIZE = 75  # as five processes with SQLAlchemy's default, 15 each, have together
POOL_TIMEOUT_S = 30  # SQLAlchemy's default
ERROR_KINDS = {
    "too many clients": "too many connections",
    "remaining connection slots": "too many connections",
    "QueuePool limit": "pool timeout",
    "database is locked": "lock timeout",
}

logger = logging.getLogger(__name__)


class DirectWrites:
    """Writes as most code does, without an idempotency key.

    When the answer to an attempt is lost, the retry inserts the row a second time.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn
    async def write_directly(self, write: DirectWrite) -> None:
        """Insert one row, over its own connection and in its own transaction."""
        async with self._engine.begin() as connection:
            await connection.execute(
                insert(MAIN_WRITES).values(workflow_id=write.workflow_id, item=write.item, cents=write.cents)
            )


class DirectDesign(Design):
    """What people do today: with `pooled` connections from a pool, else one for each write."""

    roles = (MAIN,)
    writer = MAIN
    commits_when_pushed = True

    def __init__(self, *, pooled: bool = False) -> None:
        self._pool: dict[str, Any] = (
            {"pool_size": POOL_SIZE, "max_overflow": 0, "pool_timeout": POOL_TIMEOUT_S}
            if pooled
            else {"poolclass": NullPool}
        )

    async def run_worker(self, role: str, settings: Settings) -> None:
        """Run a worker whose callers write to the database themselves."""
        engine = create_async_engine(settings.database_url, **self._pool)
        try:
            await _serve(settings, DirectWorkflow, DirectWrites(engine).write_directly)
        finally:
            await engine.dispose()

    async def start(self, client: Client, settings: Settings, order: Order) -> WorkflowHandle[Any, Any]:
        return await _start(client, settings, order, DirectWorkflow)

    @asynccontextmanager
    async def producer(self, client: Client, settings: Settings) -> AsyncIterator[Push]:
        """Open a producer that writes as the activity does."""
        engine = create_async_engine(settings.database_url, **self._pool)
        write = DirectWrites(engine).write_directly

        async def push(*orders: Order) -> None:
            [order] = orders
            try:
                await write(DirectWrite(workflow_id=order.workflow_id, item=order.item, cents=order.cents))
            except (SQLAlchemyError, OSError) as error:
                raise PushRefused(str(error), kind=_kind_of(error)) from error

        try:
            yield push
        finally:
            await engine.dispose()


def _kind_of(error: Exception) -> str:
    text = str(error)
    for sign, kind in ERROR_KINDS.items():
        if sign in text:
            return kind
    return type(error).__name__


class BaselineDesign(Design):
    """The same workflow without its write, which shows what the write alone costs. Not a contender."""

    roles = (MAIN,)
    writer = MAIN

    async def run_worker(self, role: str, settings: Settings) -> None:
        await _serve(settings, BaselineWorkflow)

    async def start(self, client: Client, settings: Settings, order: Order) -> WorkflowHandle[Any, Any]:
        return await _start(client, settings, order, BaselineWorkflow)


async def _serve(settings: Settings, caller: type, *activities: Callable[..., Any]) -> None:
    client = await connect_temporal()
    logger.info("main worker: task queue %s, %s", settings.main_task_queue, caller.__name__)
    await serve(
        Worker(
            client,
            task_queue=settings.main_task_queue,
            workflows=[caller],
            activities=[work, *activities],
            workflow_runner=workflow_runner(),
            graceful_shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
    )


async def _start(client: Client, settings: Settings, order: Order, caller: type) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        caller.__name__,
        CallerInput(item=order.item, cents=order.cents, write_timeout_s=settings.confirm_timeout.total_seconds()),
        id=order.workflow_id,
        task_queue=settings.main_task_queue,
        result_type=int,
    )
