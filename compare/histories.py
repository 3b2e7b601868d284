"""Events and bytes of workflow histories."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

LIST_TIMEOUT = timedelta(seconds=20)  # lists of workflows lag behind
POLL_EVERY = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySize:
    """The size of one workflow history or of several together."""

    events: int = 0
    bytes: int = 0

    def plus(self, other: "HistorySize") -> "HistorySize":
        return HistorySize(events=self.events + other.events, bytes=self.bytes + other.bytes)

    def minus(self, other: "HistorySize") -> "HistorySize":
        return HistorySize(events=self.events - other.events, bytes=self.bytes - other.bytes)


def size_of(execution: WorkflowExecution) -> HistorySize:
    """Return the size that the server reports. In lists it is known for closed runs only, in descriptions always."""
    return HistorySize(events=execution.history_length, bytes=execution.raw_info.history_size_bytes)


async def size_of_series(client: Client, series: str, count: int) -> HistorySize:
    """Return the total size of the histories of the `count` workflows, all closed, whose ids begin with `series`.

    Raises `TimeoutError` when the server does not list all of them as closed within `LIST_TIMEOUT`.
    """
    async with asyncio.timeout(LIST_TIMEOUT.total_seconds()):
        while True:
            runs = [run async for run in client.list_workflows(f'WorkflowId STARTS_WITH "{series}"')]
            if len(runs) == count and all(run.status is not WorkflowExecutionStatus.RUNNING for run in runs):
                return _total([size_of(run) for run in runs])
            await asyncio.sleep(POLL_EVERY.total_seconds())


async def size_of_all_runs(client: Client, workflow_id: str) -> HistorySize:
    """Return the total size of the histories of a running workflow and of the runs that it continued.

    Raises `TimeoutError` as `all_runs` does.
    """
    runs = await all_runs(client, workflow_id)
    return _total([size_of(run) for run in runs])


async def all_runs(client: Client, workflow_id: str) -> list[WorkflowExecution]:
    """Return all runs of a workflow; the current one comes last and is described, not listed.

    Raises `TimeoutError` when the server does not list all earlier runs as closed within `LIST_TIMEOUT`.
    """
    async with asyncio.timeout(LIST_TIMEOUT.total_seconds()):
        while True:
            current = await client.get_workflow_handle(workflow_id).describe()
            listed = [run async for run in client.list_workflows(f'WorkflowId = "{workflow_id}"')]
            earlier = [run for run in listed if run.run_id != current.run_id]
            if all(run.status is not WorkflowExecutionStatus.RUNNING for run in earlier):
                return [*earlier, current]
            await asyncio.sleep(POLL_EVERY.total_seconds())


def _total(sizes: Sequence[HistorySize]) -> HistorySize:
    total = HistorySize()
    for size in sizes:
        total = total.plus(size)
    return total
