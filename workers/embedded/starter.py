"""Starting many MainWorkflows at once, and collecting their results."""

import asyncio
import secrets
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

from write_batcher.config import Settings
from write_batcher.workflows.main import MainInput, MainResult, MainWorkflow

START_CONCURRENCY = 32  # more only queues in the server
WAIT_CONCURRENCY = 100  # open long polls

MainHandle = WorkflowHandle[MainWorkflow, MainResult]


class Timed(Protocol):
    """A workflow result with a latency."""

    @property
    def latency_ms(self) -> int:
        """From submitting the write to having its receipt."""


S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The results of many workflows."""

    completed: int = 0
    latencies_ms: list[int] = field(default_factory=list)
    """Of the completed workflows, from submitting a write to having its receipt."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failed workflows by error type."""
    first_messages: dict[str, str] = field(default_factory=dict)
    """The first message of each error type."""

    @property
    def failed(self) -> int:
        """The number of workflows that did not complete."""
        return self.failures.total()

    def latency_ms(self, percent: int) -> int | None:
        """The percentile `percent` (1 to 99) of the latencies; None when no workflow completed."""
        if len(self.latencies_ms) < 2:
            return self.latencies_ms[0] if self.latencies_ms else None
        return round(statistics.quantiles(self.latencies_ms, n=100, method="inclusive")[percent - 1])


def new_series() -> str:
    """Make a new prefix for the workflow ids of one start, unlike that of any other."""
    return f"main-{secrets.token_hex(4)}-"


async def start_workflows(
    client: Client, settings: Settings, series: str, count: int, *, bad: int = 0, on_started: Callable[[], None]
) -> list[MainHandle]:
    """Start `count` workflows whose ids begin with `series`, and return their handles.

    `bad` of them, at most `count` and evenly spread, write a record that the database refuses.
    """
    every = count // bad if bad else 0

    async def start(number: int) -> MainHandle:
        cents = -1 if every and number % every == 0 and number < every * bad else 100 + number
        handle = await start_main(client, settings, f"{series}{number}", item=f"item-{number}", cents=cents)
        on_started()
        return handle

    return await gather_bounded(start, range(count), START_CONCURRENCY)


async def start_main(client: Client, settings: Settings, workflow_id: str, *, item: str, cents: int) -> MainHandle:
    """Start one MainWorkflow that writes this record."""
    return await client.start_workflow(
        MainWorkflow.run,
        MainInput(
            item=item,
            cents=cents,
            queue=settings.queue,
            batcher_task_queue=settings.batcher_task_queue,
            confirm_by=settings.confirm_by,
            submit_timeout_s=settings.submit_timeout.total_seconds(),
            confirm_timeout_s=settings.confirm_timeout.total_seconds(),
        ),
        id=workflow_id,
        task_queue=settings.main_task_queue,
    )


async def wait_for(handles: Iterable[WorkflowHandle[Any, Timed]], *, on_ended: Callable[[], None]) -> Outcomes:
    """Wait until all workflows have ended, and collect their results; `on_ended` is called for each."""
    results: list[Timed] = []
    failures: Counter[str] = Counter()
    first_messages: dict[str, str] = {}

    async def wait(handle: WorkflowHandle[Any, Timed]) -> None:
        try:
            results.append(await handle.result())
        except WorkflowFailureError as error:
            kind, message = root_failure(error)
            failures[kind] += 1
            first_messages.setdefault(kind, message)
        on_ended()

    await gather_bounded(wait, handles, WAIT_CONCURRENCY)
    return Outcomes(
        completed=len(results),
        latencies_ms=[result.latency_ms for result in results],
        failures=failures,
        first_messages=first_messages,
    )


def root_failure(error: WorkflowFailureError) -> tuple[str, str]:
    """Return the type and the message of the failure behind `error`, looking through failed activities."""
    cause: BaseException = error.cause
    while isinstance(cause, ActivityError) and cause.cause is not None:
        cause = cause.cause
    kind = cause.type if isinstance(cause, ApplicationError) and cause.type else type(cause).__name__
    return kind, cause.message if isinstance(cause, FailureError) else str(cause)


async def gather_bounded(work: Callable[[S], Awaitable[T]], items: Iterable[S], limit: int) -> list[T]:
    """Run `work` for all items, at most `limit` at once, and return the results in the order of the items."""
    slots = asyncio.Semaphore(limit)

    async def work_in_slot(item: S) -> T:
        async with slots:
            return await work(item)

    return await asyncio.gather(*map(work_in_slot, items))
