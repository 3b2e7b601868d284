"""What is in the database against what the callers were told."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from write_batcher.compare.contenders.design import Order
from write_batcher.workers.embedded.main_writes import MAIN_WRITES


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerEnd:
    """What became of one caller: `latency_ms` when it completed, `failure`, a type and a message, when not."""

    order: Order
    latency_ms: int | None = None
    failure: tuple[str, str] | None = None

    @property
    def completed(self) -> bool:
        return self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """`lost`: completed, but its row is missing. `duplicates`: rows beyond the first of a caller. `failed_written`:
    callers that failed although their row is there.
    """

    completed: int
    failed: int
    failed_good: int
    rows: int
    written: int
    duplicates: int
    lost: int
    failed_written: int
    failures: Counter[str] = field(default_factory=Counter)
    first_messages: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, float | None]:
        """Those that all scenarios with callers have."""
        return {
            "completed": self.completed,
            "failed": self.failed,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "failed_written": self.failed_written,
        }

    def notes(self) -> list[str]:
        """Sentences on what went wrong."""
        notes = [
            f"{number} callers failed with {kind}: {self.first_messages[kind]}"
            for kind, number in self.failures.most_common()
        ]
        if self.failed_written:
            notes.append(f"{self.failed_written} callers failed although their row is in the database")
        if self.duplicates:
            notes.append(f"{self.duplicates} rows are in the database once too often")
        if self.lost:
            notes.append(f"{self.lost} callers were told that their row is written, and it is not there")
        return notes


def audit(ends: Iterable[CallerEnd], rows: Mapping[str, int]) -> Audit:
    """`rows`: how many rows there are of each workflow id."""
    ends = list(ends)
    failed = [end for end in ends if not end.completed]
    failures: Counter[str] = Counter()
    first_messages: dict[str, str] = {}
    for end in failed:
        kind, message = end.failure or ("", "")
        failures[kind] += 1
        first_messages.setdefault(kind, message)
    return Audit(
        completed=len(ends) - len(failed),
        failed=len(failed),
        failed_good=sum(not end.order.bad for end in failed),
        rows=sum(rows.values()),
        written=len(rows),
        duplicates=sum(rows.values()) - len(rows),
        lost=sum(end.completed and end.order.workflow_id not in rows for end in ends),
        failed_written=sum(end.order.workflow_id in rows for end in failed),
        failures=failures,
        first_messages=first_messages,
    )


class Rows:
    """The rows of the callers whose ids begin with `series`, over a connection that stays open: it must not be refused
    when the database is overwhelmed.
    """

    def __init__(self, database_url: str, series: str) -> None:
        self._engine: AsyncEngine = create_async_engine(database_url, pool_size=1, max_overflow=0)
        self._mine = MAIN_WRITES.c.workflow_id.startswith(series, autoescape=True)

    async def __aenter__(self) -> Self:
        await self.count()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._engine.dispose()

    async def count(self) -> int:
        """How many there are."""
        async with self._engine.connect() as connection:
            return (await connection.execute(select(func.count()).where(self._mine))).scalar_one()

    async def by_workflow(self) -> Counter[str]:
        """How many there are of each workflow id."""
        column = MAIN_WRITES.c.workflow_id
        async with self._engine.connect() as connection:
            found = await connection.execute(select(column, func.count()).where(self._mine).group_by(column))
            return Counter({row[0]: row[1] for row in found})
