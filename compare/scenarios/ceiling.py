"""Producers push straight at one batcher, as fast as they can."""

from write_batcher.compare.arena import Arena
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.results import is_limited_by_producers
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measured, refusals
from write_batcher.compare.scenarios.pushing import RowWatch, beside, push_all, stalled

PRODUCERS = 32


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measured:
    """See `Scenario.CEILING`."""
    orders = arena.orders(scale.requests)
    arena.progress.expect(len(orders))
    async with arena.rows() as rows:
        watch = RowWatch(arena, rows)
        async with beside(watch.keep_looking()):
            pushed = await push_all(arena, orders, PRODUCERS)
        pushed_s = watch.elapsed_s
        complete = await watch.until(pushed.accepted)
        by_workflow = await rows.by_workflow()
    notes = refusals(pushed.refused)
    if not complete:
        notes.append(stalled(pushed.accepted - len(by_workflow)))
    figures: dict[str, float | None] = {
        "offered": len(orders),
        "accepted": pushed.accepted,
        "refused": pushed.refused.total(),
        "rows": by_workflow.total(),
        "duplicates": by_workflow.total() - len(by_workflow),
        "lost": max(pushed.accepted - len(by_workflow), 0),
        "seconds": watch.last_s,
        "pushed_s": round(pushed_s, 3),
        "writes_per_s": round(len(by_workflow) / watch.last_s, 2) if watch.last_s else None,
    }
    if is_limited_by_producers(figures):
        notes.append("limited by the producers: what the batcher could write at most is not known")
    return Measured(figures=figures, samples={"points": watch.points}, notes=notes)
