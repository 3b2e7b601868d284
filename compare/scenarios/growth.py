"""Writes flow while the history of the batcher is looked at."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from write_batcher.compare.arena import Arena
from write_batcher.compare.histories import chain, size_of
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measured, refusals
from write_batcher.compare.scenarios.pushing import RowWatch, beside, push_all, stalled

PRODUCERS = 4
LOOK_EVERY = timedelta(milliseconds=250)


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measured:
    """See `Scenario.GROWTH`."""
    orders = arena.orders(scale.requests)
    arena.progress.expect(len(orders))
    async with arena.rows() as rows:
        watch = RowWatch(arena, rows)
        history = HistoryWatch(arena, watch)
        await history.look()
        async with beside(history.keep_looking()):
            pushed = await push_all(arena, orders, PRODUCERS)
            complete = await watch.until(pushed.accepted)
        await history.look()
        by_workflow = await rows.by_workflow()
    notes = refusals(pushed.refused)
    if not complete:
        notes.append(stalled(pushed.accepted - len(by_workflow)))
    runs = await chain(arena.client, history.workflow_id)
    return Measured(
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
    """Looks at the batcher's current run again and again."""

    def __init__(self, arena: Arena, rows: RowWatch) -> None:
        if arena.batcher_id is None:
            raise ValueError(f"{arena.contender} has no batcher")
        self.workflow_id = arena.batcher_id
        self.points: list[dict[str, Any]] = []
        self._arena = arena
        self._rows = rows
        self._began = time.monotonic()
        self._run_ids: list[str] = []

    async def look(self) -> None:
        """Once, also at the rows."""
        await self._rows.look()
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

    async def keep_looking(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY.total_seconds())
