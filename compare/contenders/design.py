"""What a comparison needs of a contender: its workers, its callers, and a way to push straight at its batcher."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from write_batcher import Settings, WriteBatcherError
from write_batcher.workers.embedded.starter import bounded

MAIN, BATCHER = "main", "batcher"

LIST_LAGS = timedelta(seconds=1)  # a workflow that was started, or ended, a moment ago
CLEANED_WITHIN = timedelta(seconds=60)
TERMINATE_CONCURRENCY = 20


class PushRefused(WriteBatcherError):
    """A request was not accepted by the batcher, or by what stands before it. It is not written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One write of one caller; no other row has its workflow id."""

    workflow_id: str
    item: str
    cents: int

    @property
    def bad(self) -> bool:
        """Whether the database refuses it."""
        return self.cents < 0

    def record(self) -> dict[str, Any]:
        """Its row in `main_writes`."""
        return {"workflow_id": self.workflow_id, "item": self.item, "cents": self.cents}


Push = Callable[[Order], Awaitable[None]]


class Design(ABC):
    """One contender. `roles` are its worker processes, `writer` is the one that writes to the database: when it is the
    only one, callers die with it.
    """

    roles: ClassVar[tuple[str, ...]]
    writer: ClassVar[str]
    uses_redis: ClassVar[bool] = False

    def settings(self, settings: Settings) -> Settings:
        """The common settings, and what this contender needs otherwise."""
        return settings

    def batcher_id(self, settings: Settings) -> str | None:
        """The workflow id of its batcher; None when it has none."""
        return None

    @abstractmethod
    async def work(self, role: str, settings: Settings) -> None:
        """Be the worker process of `role` until SIGTERM."""

    @abstractmethod
    async def start(self, client: Client, settings: Settings, order: Order) -> WorkflowHandle[Any, Any]:
        """Start the caller of `order`."""

    def latency_ms(self, result: Any) -> int:
        """From submit to receipt, out of the result of a caller."""
        return int(result)

    async def clean_up(self, client: Client, settings: Settings) -> None:
        """Take away, but for rows and ledger entries, what it leaves on servers that are not ours: the batcher, and
        callers that were interrupted. Its workers have ended.
        """
        if batcher := self.batcher_id(settings):
            await _terminate(client, batcher)
        queues = ", ".join(f'"{name}"' for name in (settings.main_task_queue, settings.batcher_task_queue))
        running = f'TaskQueue IN ({queues}) AND ExecutionStatus = "Running"'
        async with asyncio.timeout(CLEANED_WITHIN.total_seconds()):
            while True:
                await asyncio.sleep(LIST_LAGS.total_seconds())
                found = [workflow.id async for workflow in client.list_workflows(running)]
                if not found:
                    return
                await bounded(lambda workflow_id: _terminate(client, workflow_id), found, TERMINATE_CONCURRENCY)

    @asynccontextmanager
    async def producer(self, client: Client, settings: Settings) -> AsyncIterator[Push]:
        """Pushes requests straight at the batcher. Pushing raises PushRefused."""
        raise NotImplementedError(f"{type(self).__name__} has no batcher")
        yield


async def _terminate(client: Client, workflow_id: str) -> None:
    try:
        await client.get_workflow_handle(workflow_id).terminate("the comparison is over")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # it was never started, or has ended meanwhile
            raise
