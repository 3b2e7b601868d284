"""The process that writes is killed in the middle of a batch and started again a moment later."""

import asyncio
import time
from datetime import timedelta

from write_batcher.compare.arena import Arena
from write_batcher.compare.audit import audit
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measurement
from write_batcher.compare.scenarios.pushing import RowWatch, in_background

KILL_AT_SHARE = 1 / 3  # of all rows
RESTART_AFTER = timedelta(seconds=2)
POLL_EVERY = timedelta(milliseconds=20)


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measurement:
    """Measure the figures of `Scenario.CRASH`."""
    notes: list[str] = []
    async with arena.rows() as rows:
        watch = RowWatch(arena, rows)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            calling = group.create_task(arena.run_callers(arena.orders(scale.workflows)))
            while watch.count < scale.workflows * KILL_AT_SHARE and not calling.done():
                await watch.poll()
                await asyncio.sleep(POLL_EVERY.total_seconds())
            await arena.kill_writer()
            killed_s = time.monotonic() - began
            await watch.poll()  # a row committed just before the kill may not have been seen yet
            rows_at_kill = watch.count
            if rows_at_kill >= scale.workflows:
                notes.append("all rows were written before the writer could be killed")
            async with in_background(watch.keep_polling(every=POLL_EVERY)):
                await asyncio.sleep(RESTART_AFTER.total_seconds())
                restarted_s = time.monotonic() - began
                await arena.start_worker(arena.design.writer)
                outcomes = await calling
        ended_s = time.monotonic() - began
        await watch.poll()
        found = audit(outcomes, await rows.by_workflow())
    return Measurement(
        figures={
            "workflows": scale.workflows,
            **found.figures(),
            "recovery_s": recovery_s(watch.points, killed_s, rows_at_kill),
            "killed_at_s": round(killed_s, 3),
            "restarted_at_s": round(restarted_s, 3),
            "ended_at_s": round(ended_s, 3),
        },
        samples={"points": watch.points},
        notes=notes + found.notes(),
    )


def recovery_s(points: list[dict[str, float]], killed_s: float, rows_at_kill: int) -> float | None:
    """Return the seconds from the kill to the first row beyond `rows_at_kill`; None when no further row came."""
    later = [point["s"] - killed_s for point in points if point["rows"] > rows_at_kill]
    return round(later[0], 3) if later else None
