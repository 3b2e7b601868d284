"""Many workflows at once, each with one write."""

import time

from write_batcher.compare.arena import Arena
from write_batcher.compare.audit import Audit, audit
from write_batcher.compare.histories import HistorySize
from write_batcher.compare.resource_usage import Baseline, Measuring, Spent
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measured, per


async def measure(arena: Arena, scale: Scale, baseline: Baseline) -> Measured:
    """See `Scenario.LOAD`."""
    measuring = await Measuring.begin(arena)
    began = time.monotonic()
    ends = await arena.run_callers(arena.orders(scale.workflows))
    seconds = time.monotonic() - began
    spent = await measuring.end()
    histories = (await arena.callers_size(scale.workflows)).plus(spent.batcher_history)
    async with arena.rows() as rows:
        found = audit(ends, await rows.by_workflow())
    limit = scale.connection_limit if arena.servers.has_connection_limit else None
    notes = found.notes()
    if limit and spent.database.connections_peak < limit and not spent.database.errors:
        notes.append(
            f"at most {spent.database.connections_peak} of {limit} connections were open at once: "
            "at this rate the limit did not matter"
        )
    return Measured(
        figures=figures(found, spent, histories, baseline, workflows=scale.workflows, seconds=seconds)
        | {"connection_limit": limit},
        samples={"latency_ms": [end.latency_ms for end in ends if end.latency_ms is not None]},
        notes=notes,
    )


def figures(
    found: Audit, spent: Spent, histories: HistorySize, baseline: Baseline, *, workflows: int, seconds: float
) -> dict[str, float | None]:
    """`histories` of callers and batcher. Events, bytes and actions are those of the write alone."""
    actions = None
    if spent.actions is not None and baseline.actions is not None:
        actions = spent.actions - baseline.actions * workflows
    return {
        "workflows": workflows,
        **found.figures(),
        "seconds": round(seconds, 3),
        "writes_per_s": round(found.written / seconds, 2),
        "transactions": spent.database.transactions,
        "connections_opened": spent.database.connections_opened,
        "connections_peak": spent.database.connections_peak,
        "database_errors": spent.database.errors,
        "events_per_write": per(histories.events - baseline.events * workflows, found.written),
        "bytes_per_write": per(histories.bytes - baseline.bytes * workflows, found.written),
        "actions_per_write": per(actions, found.written),
        "server_cpu_ms_per_write": per(_ms(spent.server_cpu_s), found.written),
        "worker_cpu_ms_per_write": per(_ms(spent.worker_cpu_s), found.written),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
