"""Some records are bad: who fails?"""

from write_batcher.compare.arena import Arena
from write_batcher.compare.audit import audit
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measured

ONE_IN = 100  # records is bad, at least one


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measured:
    """See `Scenario.POISON`."""
    bad = max(scale.workflows // ONE_IN, 1)
    ends = await arena.run_callers(arena.orders(scale.workflows, bad=bad))
    async with arena.rows() as rows:
        found = audit(ends, await rows.by_workflow())
    return Measured(
        figures={
            "workflows": scale.workflows,
            "bad": bad,
            **found.figures(),
            "failed_good": found.failed_good,
        },
        notes=found.notes(),
    )
