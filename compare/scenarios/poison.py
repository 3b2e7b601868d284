"""Some records are bad: who fails?"""

from write_batcher.compare.arena import Arena
from write_batcher.compare.audit import audit
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measurement

RECORDS_PER_BAD_ONE = 100


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measurement:
    """Measure the figures of `Scenario.POISON`."""
    bad = max(scale.workflows // RECORDS_PER_BAD_ONE, 1)
    outcomes = await arena.run_callers(arena.orders(scale.workflows, bad=bad))
    async with arena.rows() as rows:
        found = audit(outcomes, await rows.by_workflow())
    return Measurement(
        figures={
            "workflows": scale.workflows,
            "bad": bad,
            **found.figures(),
            "failed_good": found.failed_good,
        },
        notes=found.notes(),
    )
