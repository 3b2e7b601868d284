"""What a contender uses between two moments."""

from dataclasses import dataclass
from typing import Self, TypeVar

from write_batcher.compare.arena import Arena
from write_batcher.compare.database_meter import DatabaseUse
from write_batcher.compare.histories import HistorySize

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """None: the servers are not ours, so it cannot be told."""

    database: DatabaseUse
    batcher_history: HistorySize
    actions: int | None
    server_cpu_s: float | None
    worker_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What an arena had used when it began."""

    arena: Arena
    actions: int | None
    history: HistorySize
    server_cpu_s: float | None
    worker_cpu_s: float

    @classmethod
    async def begin(cls, arena: Arena) -> Self:
        """Processor time last: the other questions cost some."""
        actions = await arena.servers.actions()
        history = await arena.batcher_size()
        await arena.database_use()
        return cls(
            arena=arena,
            actions=actions,
            history=history,
            server_cpu_s=arena.server_cpu_s(),
            worker_cpu_s=arena.worker_cpu_s(),
        )

    async def end(self) -> Spent:
        """Processor time first, for the same reason."""
        worker_cpu_s, server_cpu_s = self.arena.worker_cpu_s(), self.arena.server_cpu_s()
        database = await self.arena.database_use()
        history = await self.arena.batcher_size()
        actions = await self.arena.servers.actions()
        return Spent(
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
    """What a caller costs that writes nothing: its start and its business steps. Subtracted from what callers that
    write cost.
    """

    actions: float | None
    events: float
    bytes: float


async def baseline(arena: Arena, workflows: int) -> Baseline:
    """Measured over so many workflows."""
    measuring = await Measuring.begin(arena)
    await arena.run_callers(arena.orders(workflows))
    spent = await measuring.end()
    histories = await arena.callers_size(workflows)
    return Baseline(
        actions=None if spent.actions is None else spent.actions / workflows,
        events=histories.events / workflows,
        bytes=histories.bytes / workflows,
    )
