"""How a running comparison is shown: two progress bars on a terminal, and everywhere one line per run."""

from write_batcher.cli.console import ProgressScreen, make_console
from write_batcher.compare.results import Run, Scenario
from write_batcher.compare.scale import Scale, steps

# The figures in the line of a run; the report has all of them.
SHOWN_FIGURES = {
    Scenario.PRESSURE: ("holds_up_to_per_s", "busy_p99_ms", "bystander_busy_p99_ms", "errors"),
    Scenario.LOAD: ("rows", "failed", "lost", "duplicates", "writes_per_s", "transactions", "actions_per_write"),
    Scenario.GROWTH: ("writes", "max_events", "continued_as_new"),
    Scenario.CEILING: ("accepted", "refused", "rows", "duplicates", "writes_per_s"),
    Scenario.CRASH: ("rows", "failed", "lost", "duplicates", "recovery_s"),
    Scenario.POISON: ("bad", "failed", "failed_good", "duplicates"),
    Scenario.IDLE: ("actions", "events", "actions_per_day"),
}


class CompareScreen(ProgressScreen):
    """Shows the progress of a comparison while the context is open."""

    def __init__(self, scale: Scale) -> None:
        self._console = make_console()
        super().__init__(self._console)
        runs = sum(len(step.contenders) for step in steps(scale))
        self._number, self._total = 0, runs
        self._runs = self._progress.add_task("runs", total=runs)
        self._now = self._progress.add_task("", total=None)

    def begin(self, what: str) -> None:
        """Announce the next step."""
        self._progress.reset(self._now, description=what, total=None)

    def expect(self, total: int) -> None:
        """Set how many things the current part of the step has to do."""
        self._progress.reset(self._now, total=total)

    def advance(self, number: int = 1) -> None:
        """Count `number` more of them as done."""
        self._progress.advance(self._now, number)

    def end(self, run: Run) -> None:
        """Print the line of a run, its figures or why there are none."""
        self._number += 1
        self._progress.advance(self._runs)
        figures = ", ".join(
            f"{name} {run.figures[name]:g}" for name in SHOWN_FIGURES[run.scenario] if run.figures.get(name) is not None
        )
        where = f"[{self._number}/{self._total}] {run.scenario}, {run.database}, {run.contender}"
        self._console.print(f"{where}: {figures or '; '.join(run.notes)}", markup=False)
