"""Events and bytes of workflow histories."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

LISTED_WITHIN = timedelta(seconds=20)
LOOK_EVERY = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySize:
    """Of one run of a workflow, or of several together."""

    events: int = 0
    bytes: int = 0

    def plus(self, other: "HistorySize") -> "HistorySize":
        return HistorySize(events=self.events + other.events, bytes=self.bytes + other.bytes)

    def minus(self, other: "HistorySize") -> "HistorySize":
        return HistorySize(events=self.events - other.events, bytes=self.bytes - other.bytes)


def size_of(execution: WorkflowExecution) -> HistorySize:
    """As far as the server knows: a list knows it of closed runs, a description of running ones, too."""
    return HistorySize(events=execution.history_length, bytes=execution.raw_info.history_size_bytes)


async def series_size(client: Client, series: str, expected: int) -> HistorySize:
    """The histories of the workflows whose ids begin with `series`: `expected` of them, all closed.

    Lists lag behind: waits for them. Raises TimeoutError.
    """
    async with asyncio.timeout(LISTED_WITHIN.total_seconds()):
        while True:
            runs = [run async for run in client.list_workflows(f'WorkflowId STARTS_WITH "{series}"')]
            if len(runs) == expected and all(run.status is not WorkflowExecutionStatus.RUNNING for run in runs):
                return _total([size_of(run) for run in runs])
            await asyncio.sleep(LOOK_EVERY.total_seconds())


async def chain_size(client: Client, workflow_id: str) -> HistorySize:
    """The history of a workflow that is running, with those of the runs that it continued."""
    runs = await chain(client, workflow_id)
    return _total([size_of(run) for run in runs])


async def chain(client: Client, workflow_id: str) -> list[WorkflowExecution]:
    """All runs of a workflow, the one that is running described instead of listed. Raises TimeoutError."""
    async with asyncio.timeout(LISTED_WITHIN.total_seconds()):
        while True:
            current = await client.get_workflow_handle(workflow_id).describe()
            listed = [run async for run in client.list_workflows(f'WorkflowId = "{workflow_id}"')]
            earlier = [run for run in listed if run.run_id != current.run_id]
            if all(run.status is not WorkflowExecutionStatus.RUNNING for run in earlier):
                return [*earlier, current]
            await asyncio.sleep(LOOK_EVERY.total_seconds())


def _total(sizes: Sequence[HistorySize]) -> HistorySize:
    total = HistorySize()
    for size in sizes:
        total = total.plus(size)
    return total
