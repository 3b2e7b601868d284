"""Producers push straight at one batcher, as fast as they can."""

from write_batcher.compare.arena import Arena
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.results import is_limited_by_producers
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measurement, refusal_notes
from write_batcher.compare.scenarios.pushing import RowWatch, in_background, push_all, stalled_note

PRODUCERS = 32


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measurement:
    """Measure the figures of `Scenario.CEILING`."""
    orders = arena.orders(scale.requests)
    arena.progress.expect(len(orders))
    async with arena.rows() as rows:
        watch = RowWatch(arena, rows)
        async with in_background(watch.keep_polling()):
            pushed = await push_all(arena, orders, PRODUCERS)
        pushed_s = watch.elapsed_s
        complete = await watch.wait_for(pushed.accepted)
        by_workflow = await rows.by_workflow()
    notes = refusal_notes(pushed.refused)
    if not complete:
        notes.append(stalled_note(pushed.accepted - len(by_workflow)))
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
        notes.append("limited by the producers: how much the batcher can write is not known")
    return Measurement(figures=figures, samples={"points": watch.points}, notes=notes)
