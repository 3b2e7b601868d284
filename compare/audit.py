"""What is in the database compared with what the callers were told."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from write_batcher.compare.contenders.design import Order
from write_batcher.workers.embedded.main_writes import MAIN_WRITES


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerOutcome:
    """What became of one caller."""

    order: Order
    latency_ms: int | None = None
    """From submit to receipt; None for a caller that failed."""
    failure: tuple[str, str] | None = None
    """Error type and message; None for a caller that completed."""

    @property
    def completed(self) -> bool:
        return self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Callers and rows, counted."""

    completed: int
    failed: int
    failed_good: int
    """Callers that failed although their record is good."""
    rows: int
    written: int
    """Callers that have at least one row."""
    duplicates: int
    """Rows beyond the first one of a caller."""
    lost: int
    """Callers that completed although their row is missing."""
    failed_written: int
    """Callers that failed although their row is there."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failed callers by error type."""
    first_messages: dict[str, str] = field(default_factory=dict)
    """The first message of each error type."""

    def figures(self) -> dict[str, float | None]:
        """Return the figures that all scenarios with callers have in common."""
        return {
            "completed": self.completed,
            "failed": self.failed,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "failed_written": self.failed_written,
        }

    def notes(self) -> list[str]:
        """Return sentences on what went wrong."""
        notes = [
            f"{number} callers failed with {kind}: {self.first_messages[kind]}"
            for kind, number in self.failures.most_common()
        ]
        if self.failed_written:
            notes.append(f"{self.failed_written} callers failed although their row is in the database")
        if self.duplicates:
            notes.append(f"{self.duplicates} rows in the database are duplicates")
        if self.lost:
            notes.append(f"{self.lost} callers were told that their row was written, but it is missing")
        return notes


def audit(outcomes: Iterable[CallerOutcome], rows: Mapping[str, int]) -> Audit:
    """Compare the outcomes of callers with `rows`, the number of rows by workflow id."""
    outcomes = list(outcomes)
    failed = [outcome for outcome in outcomes if not outcome.completed]
    failures: Counter[str] = Counter()
    first_messages: dict[str, str] = {}
    for outcome in failed:
        kind, message = outcome.failure or ("", "")
        failures[kind] += 1
        first_messages.setdefault(kind, message)
    return Audit(
        completed=len(outcomes) - len(failed),
        failed=len(failed),
        failed_good=sum(not outcome.order.bad for outcome in failed),
        rows=sum(rows.values()),
        written=len(rows),
        duplicates=sum(rows.values()) - len(rows),
        lost=sum(outcome.completed and outcome.order.workflow_id not in rows for outcome in outcomes),
        failed_written=sum(outcome.order.workflow_id in rows for outcome in failed),
        failures=failures,
        first_messages=first_messages,
    )


class CallerRows:
    """The rows of the callers whose workflow ids begin with `series`; a context.

    It keeps one connection open: a new one might be refused while the database is overloaded.
    """

    def __init__(self, database_url: str, series: str) -> None:
        self._engine: AsyncEngine = create_async_engine(database_url, pool_size=1, max_overflow=0)
        self._in_series = MAIN_WRITES.c.workflow_id.startswith(series, autoescape=True)

    async def __aenter__(self) -> Self:
        await self.count()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._engine.dispose()

    async def count(self) -> int:
        """Return the number of rows."""
        async with self._engine.connect() as connection:
            return (await connection.execute(select(func.count()).where(self._in_series))).scalar_one()

    async def by_workflow(self) -> Counter[str]:
        """Return the number of rows by workflow id."""
        column = MAIN_WRITES.c.workflow_id
        async with self._engine.connect() as connection:
            found = await connection.execute(select(column, func.count()).where(self._in_series).group_by(column))
            return Counter({row[0]: row[1] for row in found})
