"""Nothing to do: what does waiting cost?"""

import asyncio
import time
from datetime import timedelta

from write_batcher.compare.arena import Arena
from write_batcher.compare.resource_usage import Baseline, Measuring
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measured

DAY = timedelta(days=1)
TICK = timedelta(seconds=1)


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measured:
    """See `Scenario.IDLE`."""
    arena.progress.expect(round(scale.idle / TICK))
    measuring = await Measuring.begin(arena)
    began = time.monotonic()
    for _ in range(round(scale.idle / TICK)):
        await asyncio.sleep(TICK.total_seconds())
        arena.progress.advance()
    spent = await measuring.end()
    seconds = time.monotonic() - began
    days = seconds / DAY.total_seconds()
    events = spent.batcher_history.events
    return Measured(
        figures={
            "seconds": round(seconds, 3),
            "actions": spent.actions,
            "events": events,
            "actions_per_day": None if spent.actions is None else round(spent.actions / days),
            "events_per_day": round(events / days),
        },
        notes=[f"{spent.worker_cpu_s / seconds * 1000:.1f} ms of processor time per second in its workers"],
    )
