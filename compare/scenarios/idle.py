"""Nothing to do: what does it cost to wait?"""

import asyncio
import time
from datetime import timedelta

from write_batcher import Settings
from write_batcher.compare.arena import Arena
from write_batcher.compare.resource_usage import Baseline, UsageMeter
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measurement

DAY = timedelta(days=1)
LOOKS_A_DAY = DAY // Settings.model_fields["parked_for"].default
RESTING_WITHIN = timedelta(seconds=60)
TICK = timedelta(seconds=1)


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measurement:
    """Measure the figures of `Scenario.IDLE`."""
    rests = arena.design.rests_when_idle
    if rests:
        await _until_it_rests(arena)
    arena.progress.expect(round(scale.idle / TICK))
    meter = await UsageMeter.begin(arena)
    began = time.monotonic()
    for _ in range(round(scale.idle / TICK)):
        await asyncio.sleep(TICK.total_seconds())
        arena.progress.advance()
    usage = await meter.end()
    seconds = time.monotonic() - began
    # A drain that rests looks after itself a few times a day, and as often while it is measured here.
    days = seconds / scale.idle.total_seconds() if rests else seconds / DAY.total_seconds()
    events = usage.batcher_history.events
    return Measurement(
        figures={
            "seconds": round(seconds, 3),
            "actions": usage.actions,
            "events": events,
            "actions_per_day": None if usage.actions is None else round(usage.actions / days),
            "events_per_day": round(events / days),
        },
        notes=[f"{usage.worker_cpu_s / seconds * 1000:.1f} ms of CPU time per second in its workers"],
    )


async def _until_it_rests(arena: Arena) -> None:
    """Wait until the batcher's workflow has no activity."""
    batcher = arena.client.get_workflow_handle(str(arena.batcher_id))
    async with asyncio.timeout(RESTING_WITHIN.total_seconds()):
        while (await batcher.describe()).raw_description.pending_activities:  # noqa: ASYNC110 - Temporal tells nobody
            await asyncio.sleep(TICK.total_seconds())
