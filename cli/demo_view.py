"""What the example's commands show: progress bars and tables on a terminal, plain lines in a pipe, or JSON."""

import json
import sys
from typing import TYPE_CHECKING, Any

from write_batcher.cli.console import ProgressScreen, Rows, make_console, print_rows

if TYPE_CHECKING:
    from write_batcher.workers.embedded.demo import DemoReport
    from write_batcher.workers.embedded.starter import Outcomes


class Screen(ProgressScreen):
    """Shows a run of workflows: two progress bars while the context is open, then a table or one line of JSON."""

    def __init__(self, workflows: int, *, wait: bool = True) -> None:
        self._console = make_console()
        super().__init__(self._console)
        self._started = self._progress.add_task("workflows started", total=workflows)
        self._ended = self._progress.add_task("workflows ended", total=workflows, visible=wait)

    def started(self) -> None:
        """Count one more started workflow."""
        self._progress.advance(self._started)

    def ended(self) -> None:
        """Count one more ended workflow."""
        self._progress.advance(self._ended)

    def batch(self, batch: dict[str, Any]) -> None:
        """Show a batch that was written."""
        self.say(
            f"batch {batch['batch_id']}  {batch['size']:4d} requests  {batch['flush_reason']:5}  "
            f"{batch['write_ms']:4d} ms"
        )

    def warning(self, worker: str, message: str) -> None:
        """Show a warning or an error that a worker process logged, on stderr."""
        print(f"{worker} worker: {message}", file=sys.stderr)  # noqa: T201

    def say(self, text: str) -> None:
        """Print one line, without interpreting markup."""
        self._console.print(text, markup=False)

    def say_exports(self, environment: dict[str, str]) -> None:
        """Print the lines that make other commands use these servers."""
        for name, value in environment.items():
            self.say(f"export {name}={value}")

    def show_demo(self, report: "DemoReport") -> None:
        """Print the table at the end of a demo."""
        self._table(
            [
                *_outcome_rows(report.workflows, report.outcomes),
                ("rows in the database", report.rows),
                ("duplicate rows", report.duplicates),
                ("batches", _counts(report.flush_reasons)),
                (
                    "transactions",
                    f"{report.batches} instead of {report.rows}, {max(report.rows - report.batches, 0)} saved",
                ),
                *_latency_rows(report.outcomes),
                ("Web UI", report.ui_url),
            ]
        )

    def show_outcomes(self, workflows: int, outcomes: "Outcomes", *, as_json: bool) -> None:
        """Print the table at the end of a start, or one line of JSON."""
        if as_json:
            self.say(json.dumps(outcomes_as_dict(workflows, outcomes)))
            return
        self._table([*_outcome_rows(workflows, outcomes), *_latency_rows(outcomes)])

    def _table(self, rows: Rows) -> None:
        print_rows(self._console, rows)


def demo_json(report: "DemoReport") -> str:
    """Encode the report as one line of JSON; README lists its keys."""
    return json.dumps(
        outcomes_as_dict(report.workflows, report.outcomes)
        | {
            "rows": report.rows,
            "duplicates": report.duplicates,
            "batches": report.batches,
            "flush_reasons": dict(report.flush_reasons),
            "transactions": report.batches,
        }
    )


def outcomes_as_dict(workflows: int, outcomes: "Outcomes") -> dict[str, object]:
    """Count the results of `workflows` started workflows, for JSON."""
    return {
        "workflows": workflows,
        "completed": outcomes.completed,
        "failed": outcomes.failed,
        "latency_ms": {"p50": outcomes.latency_ms(50), "p99": outcomes.latency_ms(99)},
    }


def _outcome_rows(workflows: int, outcomes: "Outcomes") -> Rows:
    return [
        ("workflows", workflows),
        ("completed", outcomes.completed),
        ("failed", _counts(outcomes.failures) if outcomes.failed else 0),
        *((f"first {kind}", message) for kind, message in outcomes.first_messages.items()),
    ]


def _latency_rows(outcomes: "Outcomes") -> Rows:
    p50, p99 = outcomes.latency_ms(50), outcomes.latency_ms(99)
    return [] if p50 is None else [("submit to receipt", f"p50 {p50} ms, p99 {p99} ms")]


def _counts(numbers: dict[str, int]) -> str:
    by_kind = ", ".join(f"{number} {kind}" for kind, number in sorted(numbers.items()))
    return f"{sum(numbers.values())} ({by_kind})"
