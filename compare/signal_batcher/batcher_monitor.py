"""What an operator sees of the batcher workflows: each is described and queried."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from write_batcher import OperationFailed
from write_batcher.compare.signal_batcher.wire import BatcherStats, batcher_id
from write_batcher.workers.embedded.starter import gather_bounded

RPC_TIMEOUT = timedelta(seconds=10)
QUERY_TIMEOUT = timedelta(seconds=10)  # a worker must answer, and there may be none
LOOK_CONCURRENCY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherView:
    """One batcher at one moment."""

    batcher: str
    """Its workflow id."""
    state: str
    run_id: str | None = None
    """Its latest run."""
    previous_run_id: str | None = None
    """The latest run at the previous look, if that was another one: it continued as new or was started again."""
    stats: BatcherStats | None = None
    """None when nobody answers the query."""
    problem: str | None = None
    """What is wrong and what to do; None when nothing is."""


class Monitor:
    """Looks at the batchers of one queue, whichever run each of them is in."""

    def __init__(self, client: Client, queue: str, batchers: int) -> None:
        self._client = client
        self._batchers = [batcher_id(queue, number) for number in range(batchers)]
        self._runs: dict[str, str] = {}

    async def look(self) -> list[BatcherView]:
        """Describe and query all batchers, in their order. Raises `OperationFailed` when Temporal cannot be asked."""
        return await gather_bounded(self._look, self._batchers, LOOK_CONCURRENCY)

    async def _look(self, batcher: str) -> BatcherView:
        # Without a run id: a handle with one would find only that run, which continue-as-new ends.
        workflow = self._client.get_workflow_handle(batcher)
        try:
            description = await workflow.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return BatcherView(batcher=batcher, state="not running", problem=_not_started(batcher))
            raise OperationFailed(
                f"Temporal cannot be asked ({error}): check that the server runs, and TEMPORAL_ADDRESS."
            ) from error
        run_id = description.run_id
        before = self._runs.get(batcher)
        self._runs[batcher] = run_id
        status = description.status
        state = "unknown" if status is None else status.name.lower().replace("_", " ")
        stats = problem = None
        if status is WorkflowExecutionStatus.RUNNING:
            try:
                async with asyncio.timeout(QUERY_TIMEOUT.total_seconds()):
                    stats = await workflow.query("get_stats", result_type=BatcherStats)
            except (RPCError, WorkflowQueryFailedError, TimeoutError) as error:
                why = str(error) or "no answer"
                problem = f"Batcher {batcher} cannot be asked ({why}): check that a batcher worker runs."
        else:
            problem = _ended(batcher, state)
        return BatcherView(
            batcher=batcher,
            state=state,
            run_id=run_id,
            previous_run_id=before if before != run_id else None,
            stats=stats,
            problem=problem,
        )


def _ended(batcher: str, state: str) -> str:
    return (
        f"Batcher {batcher} has ended ({state}), and the requests that waited in it are lost: their callers time out "
        "and must ask again. Look for the reason in its history, and run `write-batcher signal-batcher worker "
        "batcher`, which starts it again within half a minute."
    )


def _not_started(batcher: str) -> str:
    return f"There is no batcher {batcher}: start one with `write-batcher signal-batcher worker batcher`."
