"""What the command shows while it compares: two progress bars on a terminal, and a line per run everywhere."""

from types import TracebackType
from typing import Self

from write_batcher.cli.console import make_console, progress_bars
from write_batcher.compare.results import Run, Scenario
from write_batcher.compare.scale import Scale, steps

SHOWN = {
    Scenario.LOAD: ("rows", "failed", "lost", "duplicates", "writes_per_s", "transactions", "actions_per_write"),
    Scenario.GROWTH: ("writes", "max_events", "continued_as_new"),
    Scenario.CEILING: ("accepted", "refused", "rows", "duplicates", "writes_per_s"),
    Scenario.CRASH: ("rows", "failed", "lost", "duplicates", "recovery_s"),
    Scenario.POISON: ("bad", "failed", "failed_good", "duplicates"),
    Scenario.IDLE: ("actions", "events", "actions_per_day"),
}
"""The figures of a line: the rest is in the report."""


class CompareScreen:
    """A view of a comparison; a context."""

    def __init__(self, scale: Scale) -> None:
        self._console = make_console()
        self._progress = progress_bars(self._console)
        runs = sum(len(step.contenders) for step in steps(scale))
        self._number, self._total = 0, runs
        self._runs = self._progress.add_task("runs", total=runs)
        self._now = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, what: str) -> None:
        """The next step begins."""
        self._progress.reset(self._now, description=what, total=None)

    def expect(self, total: int) -> None:
        """So many things are to be done from here."""
        self._progress.reset(self._now, total=total)

    def advance(self, number: int = 1) -> None:
        """So many more are done."""
        self._progress.advance(self._now, number)

    def end(self, run: Run) -> None:
        """One line."""
        self._number += 1
        self._progress.advance(self._runs)
        figures = ", ".join(
            f"{name} {run.figures[name]:g}" for name in SHOWN[run.scenario] if run.figures.get(name) is not None
        )
        where = f"[{self._number}/{self._total}] {run.scenario}, {run.database}, {run.contender}"
        self._console.print(f"{where}: {figures or '; '.join(run.notes)}", markup=False)
