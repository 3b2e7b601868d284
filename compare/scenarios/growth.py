"""Writes keep coming while the history of the batcher is sampled."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from write_batcher.compare.arena import Arena
from write_batcher.compare.histories import all_runs, size_of
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measurement, refusal_notes
from write_batcher.compare.scenarios.pushing import RowWatch, in_background, push_all, stalled_note

PRODUCERS = 4
SAMPLE_EVERY = timedelta(milliseconds=250)


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measurement:
    """Measure the figures of `Scenario.GROWTH`."""
    orders = arena.orders(scale.requests)
    arena.progress.expect(len(orders))
    async with arena.rows() as rows:
        watch = RowWatch(arena, rows)
        history = HistoryWatch(arena, watch)
        await history.sample()
        async with in_background(history.keep_sampling()):
            pushed = await push_all(arena, orders, PRODUCERS)
            complete = await watch.wait_for(pushed.accepted)
        await history.sample()
        by_workflow = await rows.by_workflow()
    notes = refusal_notes(pushed.refused)
    if not complete:
        notes.append(stalled_note(pushed.accepted - len(by_workflow)))
    runs = await all_runs(arena.client, history.workflow_id)
    return Measurement(
        figures={
            "writes": len(by_workflow),
            "duplicates": by_workflow.total() - len(by_workflow),
            "lost": max(pushed.accepted - len(by_workflow), 0),
            "max_events": max(*(size_of(run).events for run in runs), *(point["events"] for point in history.points)),
            "max_bytes": max(*(size_of(run).bytes for run in runs), *(point["bytes"] for point in history.points)),
            "continued_as_new": max(len(runs) - 1, history.points[-1]["run"]),
        },
        samples={"points": history.points},
        notes=notes,
    )


class HistoryWatch:
    """Samples the history of the batcher's current run."""

    def __init__(self, arena: Arena, rows: RowWatch) -> None:
        if arena.batcher_id is None:
            raise ValueError(f"The contender {arena.contender} has no batcher.")
        self.workflow_id = arena.batcher_id
        self.points: list[dict[str, Any]] = []
        self._arena = arena
        self._rows = rows
        self._began = time.monotonic()
        self._run_ids: list[str] = []

    async def sample(self) -> None:
        """Take one sample, with the current number of rows."""
        await self._rows.poll()
        run = await self._arena.client.get_workflow_handle(self.workflow_id).describe()
        if run.run_id not in self._run_ids:
            self._run_ids.append(run.run_id)
        size = size_of(run)
        self.points.append(
            {
                "s": round(time.monotonic() - self._began, 3),
                "writes": self._rows.count,
                "events": size.events,
                "bytes": size.bytes,
                "run": self._run_ids.index(run.run_id),
            }
        )

    async def keep_sampling(self) -> None:
        """Take a sample every `SAMPLE_EVERY` until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(SAMPLE_EVERY.total_seconds())
