"""What a comparison needs of a contender: its workers, its callers, and a way to push straight at its batcher."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from temporalio.client import Client, WorkflowHandle

from write_batcher.config import Settings
from write_batcher.errors import WriteBatcherError

MAIN, BATCHER = "main", "batcher"


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
    """One contender. `roles` are its worker processes, `writer` is the one that writes to the database."""

    roles: ClassVar[tuple[str, ...]]
    writer: ClassVar[str]

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

    @abstractmethod
    def latency_ms(self, result: Any) -> int:
        """From submit to receipt, out of the result of a caller."""

    async def clean_up(self, client: Client, settings: Settings) -> None:
        """Take away, but for rows, what it leaves on servers that are not ours. Its workers have ended."""
        if batcher := self.batcher_id(settings):
            await client.get_workflow_handle(batcher).terminate("the comparison is over")

    @asynccontextmanager
    async def producer(self, client: Client, settings: Settings) -> AsyncIterator[Push]:
        """Pushes requests straight at the batcher. Pushing raises PushRefused."""
        raise NotImplementedError(f"{type(self).__name__} has no batcher")
        yield
