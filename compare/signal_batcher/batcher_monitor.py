"""What an operator sees of the batcher workflows, by describing and querying them."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from write_batcher import OperationFailed
from write_batcher.compare.signal_batcher.wire import BatcherStats, batcher_id

RPC_TIMEOUT = timedelta(seconds=10)
QUERY_LIMIT = timedelta(seconds=10)  # only a worker that is alive can answer, and there may be none
LOOKS_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherView:
    """One batcher at one moment. `run_id` is that of its latest run; `previous_run_id` is set when another was the
    latest at the last look: it has continued as new, or was started again. `stats` is None when nobody answers.
    """

    batcher: str
    state: str
    run_id: str | None = None
    previous_run_id: str | None = None
    stats: BatcherStats | None = None
    problem: str | None = None


class Monitor:
    """Looks at the batchers of one queue, whichever run each of them is in. Raises OperationFailed."""

    def __init__(self, client: Client, queue: str, batchers: int) -> None:
        self._client = client
        self._batchers = [batcher_id(queue, number) for number in range(batchers)]
        self._runs: dict[str, str] = {}

    async def look(self) -> list[BatcherView]:
        """All batchers, in their order."""
        slots = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def one(batcher: str) -> BatcherView:
            async with slots:
                return await self._look(batcher)

        return await asyncio.gather(*map(one, self._batchers))

    async def _look(self, batcher: str) -> BatcherView:
        # Without a run id: continue-as-new ends a run, and a handle of that run would find only what has ended.
        workflow = self._client.get_workflow_handle(batcher)
        try:
            description = await workflow.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return BatcherView(batcher=batcher, state="not running", problem=_never_started(batcher))
            raise OperationFailed(
                f"Temporal cannot be asked: {error}; look at the server, or at TEMPORAL_ADDRESS"
            ) from error
        run_id = description.run_id
        before = self._runs.get(batcher)
        self._runs[batcher] = run_id
        status = description.status
        state = "unknown" if status is None else status.name.lower().replace("_", " ")
        stats = problem = None
        if status is WorkflowExecutionStatus.RUNNING:
            try:
                async with asyncio.timeout(QUERY_LIMIT.total_seconds()):
                    stats = await workflow.query("get_stats", result_type=BatcherStats)
            except (RPCError, WorkflowQueryFailedError, TimeoutError) as error:
                why = str(error) or "no answer"
                problem = f"{batcher} cannot be asked: {why}; look whether a batcher worker runs"
        else:
            problem = _has_ended(batcher, state)
        return BatcherView(
            batcher=batcher,
            state=state,
            run_id=run_id,
            previous_run_id=before if before != run_id else None,
            stats=stats,
            problem=problem,
        )


def _has_ended(batcher: str, state: str) -> str:
    return (
        f"{batcher} has ended ({state}), with all that waited in it: its callers time out, and must ask again; look "
        "for the reason in its history, and run `write-batcher signal-batcher worker batcher`, which starts it again "
        "within half a minute"
    )


def _never_started(batcher: str) -> str:
    return f"there is no {batcher}: start one with `write-batcher signal-batcher worker batcher`"
