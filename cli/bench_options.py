"""Options of the commands `write-batcher bench ...`, and how each of them runs and shows its result."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from write_batcher.bench.json_result import JsonResult
from write_batcher.cli.compare_commands import TargetDatabase
from write_batcher.cli.console import say
from write_batcher.cli.running import run_to_end
from write_batcher.errors import ConfigurationError

Plan = TypeVar("Plan")
Found = TypeVar("Found", bound=JsonResult)

EXTRAS = "bench,embedded,postgresql"
WHAT = "The benchmark"
BOTH = "both"
MOST_ROUNDS = 1_000
MOST_REQUESTS = 1_000_000  # some 2 GB in Redis
MOST_ITEMS = 10_000  # the limit of the setting `max_items`
MOST_TASKS = 1_000
MOST_CALLERS = 10_000  # all of them workflows on a dev server that keeps them in memory

Rounds = Annotated[str, typer.Option("--rounds", metavar="N", help="How often everybody is measured, in turns.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder to save the result in, as JSON.")]
OneDatabase = Annotated[str, typer.Option("--database", metavar="NAME", help=f"{', '.join(TargetDatabase)} or {BOTH}.")]


def run_benchmark(
    measure: Callable[[Plan, Callable[[str], None]], Coroutine[Any, Any, Found]],
    plan: Plan,
    *,
    measurements: int,
    out: Path | None,
    as_json: bool,
    as_text: Callable[[Found], str] | None = None,
) -> Found:
    """Run a benchmark that makes so many measurements, save its result in `out`, show it, and return it.

    `measure` is given the plan, and what it is to call after each measurement. Without `as_text`, its result is that of
    a benchmark that compares, `BenchResults`.
    """
    from write_batcher.cli.bench_view import BenchProgress, results_as_text

    make_folder(out)
    with BenchProgress(measurements) as progress:
        results = run_to_end(measure(plan, progress.measured))
    if out is not None:
        results.save(out)
    shown: Callable[[Any], str] = as_text or results_as_text
    say(results.as_json() if as_json else shown(results))
    return results


def parse_count(option: str, text: str, lowest: int, highest: int) -> int:
    """Parse a whole number from `lowest` to `highest`. Raises `ConfigurationError` for any other text."""
    try:
        count = int(text)
    except ValueError:
        raise ConfigurationError(
            f"Option {option} {text!r} is not a whole number: give one from {lowest} to {highest}."
        ) from None
    if not lowest <= count <= highest:
        raise ConfigurationError(f"Option {option} {count} is outside of {lowest} to {highest}: give one in between.")
    return count


def parse_rounds(text: str) -> int:
    """Parse the option `--rounds`. Raises `ConfigurationError` when it is not a number from 1 to `MOST_ROUNDS`."""
    return parse_count("--rounds", text, 1, MOST_ROUNDS)


def parse_databases(name: str) -> tuple[TargetDatabase, ...]:
    """Parse the option `--database`. Raises `ConfigurationError` for an unknown name."""
    if name == BOTH:
        return tuple(TargetDatabase)
    try:
        return (TargetDatabase(name),)
    except ValueError:
        raise ConfigurationError(
            f"There is no database {name!r}: choose from {', '.join(TargetDatabase)}, {BOTH}."
        ) from None


def make_folder(out: Path | None) -> None:
    """Make the folder of `--out`: before the measurement, so that none is made in vain. Raises `ConfigurationError`
    when it cannot be used.
    """
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"Folder {out} cannot be used ({error.strerror}): choose another --out.") from error
