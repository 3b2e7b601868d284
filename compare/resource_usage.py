"""What a contender uses between two moments, and what its callers would use without their writes."""

from dataclasses import dataclass
from typing import Self, TypeVar

from write_batcher.compare.arena import Arena
from write_batcher.compare.database_meter import DatabaseUse
from write_batcher.compare.histories import HistorySize

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUsage:
    """What a contender has used. None: existing servers do not tell."""

    database: DatabaseUse
    batcher_history: HistorySize
    actions: int | None
    server_cpu_s: float | None
    worker_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageMeter:
    """Measures from `begin` to `end`; the fields are the readings at its beginning."""

    arena: Arena
    actions: int | None
    history: HistorySize
    server_cpu_s: float | None
    worker_cpu_s: float

    @classmethod
    async def begin(cls, arena: Arena) -> Self:
        """Start measuring. CPU time is read last, because the other readings take some."""
        actions = await arena.servers.actions()
        history = await arena.batcher_history_size()
        await arena.database_use()
        return cls(
            arena=arena,
            actions=actions,
            history=history,
            server_cpu_s=arena.server_cpu_s(),
            worker_cpu_s=arena.worker_cpu_s(),
        )

    async def end(self) -> ResourceUsage:
        """Return what was used since `begin`. CPU time is read first, because the other readings take some."""
        worker_cpu_s, server_cpu_s = self.arena.worker_cpu_s(), self.arena.server_cpu_s()
        database = await self.arena.database_use()
        history = await self.arena.batcher_history_size()
        actions = await self.arena.servers.actions()
        return ResourceUsage(
            database=database,
            batcher_history=history.minus(self.history),
            actions=_difference(actions, self.actions),
            server_cpu_s=_difference(server_cpu_s, self.server_cpu_s),
            worker_cpu_s=worker_cpu_s - self.worker_cpu_s,
        )


def _difference(after: N | None, before: N | None) -> N | None:
    return None if after is None or before is None else after - before


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What one caller costs without its write: its start and its business steps."""

    actions: float | None
    events: float
    bytes: float


async def measure_baseline(arena: Arena, workflows: int) -> Baseline:
    """Measure the baseline as the mean of `workflows` callers. `arena` is that of the contender `BASELINE`."""
    meter = await UsageMeter.begin(arena)
    await arena.run_callers(arena.orders(workflows))
    usage = await meter.end()
    histories = await arena.callers_history_size(workflows)
    return Baseline(
        actions=None if usage.actions is None else usage.actions / workflows,
        events=histories.events / workflows,
        bytes=histories.bytes / workflows,
    )
