"""What a comparison needs of a contender: its workers, its callers, and a way to push straight at its batcher."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Protocol

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from write_batcher import Settings, WriteBatcherError
from write_batcher.workers.embedded.starter import gather_bounded

MAIN, BATCHER = "main", "batcher"  # roles of worker processes

LIST_LAG = timedelta(seconds=1)  # before lists show that a workflow was started or closed
CLEAN_UP_TIMEOUT = timedelta(seconds=60)
TERMINATE_CONCURRENCY = 20


class PushRefused(WriteBatcherError):
    """The batcher, or what stands before it, did not accept a request. It is not written."""

    def __init__(self, message: str, *, kind: str = "refused") -> None:
        super().__init__(message)
        self.kind = kind
        """In a word or two, for counting."""


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
        """Return its row in `main_writes`."""
        return {"workflow_id": self.workflow_id, "item": self.item, "cents": self.cents}


class Push(Protocol):
    """Pushes requests straight at a batcher, or writes them. Raises `PushRefused`."""

    def __call__(self, *orders: Order) -> Awaitable[None]: ...


class Design(ABC):
    """The interface of a contender."""

    roles: ClassVar[tuple[str, ...]]
    """Its worker processes."""
    writer: ClassVar[str]
    """The role that writes to the database. When it is the only role, killing it also kills the callers' worker."""
    uses_redis: ClassVar[bool] = False
    rests_when_idle: ClassVar[bool] = False
    """Whether its batcher has no activity while there is nothing to do."""
    pushes_at_once: ClassVar[int] = 1
    """How many requests one push takes."""
    commits_when_pushed: ClassVar[bool] = False
    """Whether a request is committed when its push returns."""

    def settings(self, settings: Settings) -> Settings:
        """Return the settings that all contenders share, with the changes that this one needs."""
        return settings

    def batcher_id(self, settings: Settings) -> str | None:
        """Return the workflow id of its batcher; None when it has none."""
        return None

    @abstractmethod
    async def run_worker(self, role: str, settings: Settings) -> None:
        """Run the worker process of `role` until SIGTERM."""

    @abstractmethod
    async def start(self, client: Client, settings: Settings, order: Order) -> WorkflowHandle[Any, Any]:
        """Start the caller of `order`."""

    def latency_ms(self, result: Any) -> int:
        """Return the milliseconds from submit to receipt, given the result of a caller."""
        return int(result)

    async def clean_up(self, client: Client, settings: Settings) -> None:
        """Remove from existing servers what a run leaves there, except rows and ledger entries.

        Terminates the batcher and callers that were interrupted. Call it after the workers have ended. Raises
        `TimeoutError` when workflows are still listed as running after `CLEAN_UP_TIMEOUT`.
        """
        if batcher := self.batcher_id(settings):
            await _terminate(client, batcher)
        queues = ", ".join(f'"{name}"' for name in (settings.main_task_queue, settings.batcher_task_queue))
        running = f'TaskQueue IN ({queues}) AND ExecutionStatus = "Running"'
        async with asyncio.timeout(CLEAN_UP_TIMEOUT.total_seconds()):
            while True:
                await asyncio.sleep(LIST_LAG.total_seconds())
                found = [workflow.id async for workflow in client.list_workflows(running)]
                if not found:
                    return
                await gather_bounded(lambda workflow_id: _terminate(client, workflow_id), found, TERMINATE_CONCURRENCY)

    @asynccontextmanager
    async def producer(self, client: Client, settings: Settings) -> AsyncIterator[Push]:
        """Open a producer: a function that pushes requests straight at the batcher."""
        raise NotImplementedError(f"{type(self).__name__} has no batcher.")
        yield


async def _terminate(client: Client, workflow_id: str) -> None:
    try:
        await client.get_workflow_handle(workflow_id).terminate("the comparison is over")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # never started, or closed in the meantime
            raise
