"""Many workflows at once, one write each."""

import time

from write_batcher.compare.arena import Arena
from write_batcher.compare.audit import Audit, audit
from write_batcher.compare.histories import HistorySize
from write_batcher.compare.resource_usage import Baseline, ResourceUsage, UsageMeter
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measurement, per


async def measure(arena: Arena, scale: Scale, baseline: Baseline) -> Measurement:
    """Measure the figures of `Scenario.LOAD`."""
    meter = await UsageMeter.begin(arena)
    began = time.monotonic()
    outcomes = await arena.run_callers(arena.orders(scale.workflows))
    seconds = time.monotonic() - began
    usage = await meter.end()
    histories = (await arena.callers_history_size(scale.workflows)).plus(usage.batcher_history)
    async with arena.rows() as rows:
        found = audit(outcomes, await rows.by_workflow())
    limit = scale.connection_limit if arena.servers.has_connection_limit else None
    notes = found.notes()
    if limit and usage.database.connections_peak < limit and not usage.database.errors:
        notes.append(
            f"at most {usage.database.connections_peak} of {limit} connections were open at once: "
            "at this load the limit did not matter"
        )
    return Measurement(
        figures=load_figures(found, usage, histories, baseline, workflows=scale.workflows, seconds=seconds)
        | {"connection_limit": limit},
        samples={"latency_ms": [outcome.latency_ms for outcome in outcomes if outcome.latency_ms is not None]},
        notes=notes,
    )


def load_figures(
    found: Audit, usage: ResourceUsage, histories: HistorySize, baseline: Baseline, *, workflows: int, seconds: float
) -> dict[str, float | None]:
    """Return the figures of `Scenario.LOAD`, except the connection limit.

    `histories` are those of the callers and of the batcher together.
    """
    actions = None
    if usage.actions is not None and baseline.actions is not None:
        actions = usage.actions - baseline.actions * workflows
    return {
        "workflows": workflows,
        **found.figures(),
        "seconds": round(seconds, 3),
        "writes_per_s": round(found.written / seconds, 2),
        "transactions": usage.database.transactions,
        "connections_opened": usage.database.connections_opened,
        "connections_peak": usage.database.connections_peak,
        "database_errors": usage.database.errors,
        "events_per_write": per(histories.events - baseline.events * workflows, found.written),
        "bytes_per_write": per(histories.bytes - baseline.bytes * workflows, found.written),
        "actions_per_write": per(actions, found.written),
        "server_cpu_ms_per_write": per(_ms(usage.server_cpu_s), found.written),
        "worker_cpu_ms_per_write": per(_ms(usage.worker_cpu_s), found.written),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
