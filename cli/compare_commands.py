"""The commands of the comparison: `write-batcher compare [SCENARIO...]` and `write-batcher compare report DIR`."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from write_batcher.cli.console import make_console, say
from write_batcher.cli.running import EXIT_FAILED, run_to_end
from write_batcher.compare.results import FILE_NAME, Contender, Scenario
from write_batcher.config import ENV_PREFIX, Settings, load_settings
from write_batcher.errors import ConfigurationError

if TYPE_CHECKING:
    from write_batcher.compare.results import Results

RUN = "run"
ALL = "all"
RESULTS = Path("compare-results")

ADDRESSES = frozenset({"redis_url", "database_url"})
"""All that a comparison takes from the environment, and only for own servers: the rest are flags, or as by default."""


class TargetDatabase(StrEnum):
    """What may be written to."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


E = TypeVar("E", bound=StrEnum)


class RunByDefault(TyperGroup):
    """`compare load --rounds 2` means `compare run load --rounds 2`; so no scenario may be named as a command is."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override] # its own Context
        """Insert the name of the default command where there is none."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [RUN, *args]
        return super().parse_args(ctx, args)


compare_app = typer.Typer(
    cls=RunByDefault,
    help="Compare designs of getting many workflows' writes into one database. Without a command it is `run`: "
    "see `compare run --help`.",
)


@compare_app.command(RUN)
def run_command(
    *,
    scenarios: Annotated[
        list[str] | None, typer.Argument(metavar="SCENARIO", help=f"{', '.join(Scenario)}, or all (the default).")
    ] = None,
    workflows: Annotated[int, typer.Option(min=1, max=100_000, help="Callers of load, crash and poison.")] = 300,
    requests: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Requests that growth and ceiling push, without callers.")
    ] = 12_000,
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="How often all of it is run.")] = 1,
    contenders: Annotated[str, typer.Option(metavar="NAMES", help="Comma-separated.")] = ",".join(Contender),
    databases: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="sqlite,postgresql by default; load uses each, the others the first."),
    ] = None,
    max_items: Annotated[int, typer.Option(min=1, max=10_000, help="A batch never holds more requests.")] = 100,
    max_wait: Annotated[str, typer.Option(metavar="DURATION", help="When an open batch is closed.")] = "2s",
    connection_limit: Annotated[
        int, typer.Option(min=4, max=1_000, help="How many connections the embedded PostgreSQL accepts.")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Decides the order of the contenders in each round.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Where results go; by default {RESULTS}/TIME.")
    ] = None,
    own_servers: Annotated[
        bool,
        typer.Option(
            "--own-servers",
            help="Use the servers that the environment names, not embedded ones: actions and their CPU are not known. "
            "Rows and ledger entries stay there.",
        ),
    ] = False,
) -> None:
    """Run contenders through scenarios, save DIR/results.json after each run, and draw the report.

    Ends with status 1 when this library lost a write, made one twice or failed a caller that has written, or when
    something could not be measured.
    """
    chosen = scenarios_of(scenarios or [ALL])
    chosen_contenders = chosen_of(Contender, contenders.split(","), "contender")
    chosen_databases = chosen_of(TargetDatabase, (databases or ",".join(TargetDatabase)).split(","), "database")
    taken = ADDRESSES if own_servers else frozenset()
    settings = settings_without(taken, max_items=max_items, max_wait=max_wait, log_format="json")
    try:
        from write_batcher.cli.compare_view import CompareScreen
        from write_batcher.compare.comparison import Comparison, unsafe_writes
        from write_batcher.compare.scale import Scale
        from write_batcher.compare.servers import database_of
        from write_batcher.compare.signal_batcher.pending_writes import MAX_BATCH_ITEMS
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    if Contender.SIGNAL in chosen_contenders and max_items > MAX_BATCH_ITEMS:
        raise ConfigurationError(
            f"--max-items {max_items}: a batch of signal holds {MAX_BATCH_ITEMS} at most; "
            "give that many or fewer, or leave signal out of --contenders"
        )
    if own_servers:
        there = TargetDatabase(database_of(settings.database_url))
        if databases is not None and chosen_databases != (there,):
            raise ConfigurationError(
                f"--databases {databases} requires embedded servers: WRITE_BATCHER_DATABASE_URL names {there}; "
                "leave out --databases or --own-servers"
            )
        chosen_databases = (there,)
    folder = _new_folder(out)
    if ignored := ignored_variables(taken):
        say(f"ignored, for a comparison is set by its flags: {', '.join(ignored)}")
    scale = Scale(
        scenarios=chosen,
        contenders=chosen_contenders,
        databases=tuple(database.value for database in chosen_databases),
        workflows=workflows,
        requests=requests,
        rounds=rounds,
        seed=seed,
        max_items=settings.max_items,
        max_wait=settings.max_wait,
        connection_limit=connection_limit,
    )
    with CompareScreen(scale) as screen:
        comparison = Comparison(scale, settings, folder, screen, own=own_servers)
        try:
            results = run_to_end(comparison.run())
        except BaseException:
            if comparison.results.runs:
                say(f"not complete; what was measured: write-batcher compare report {folder}")
            raise
    _report(results, folder)
    if unsafe_writes(results) or not all(run.figures for run in results.runs):
        raise typer.Exit(EXIT_FAILED)


@compare_app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the results.json of a comparison is.")],
) -> None:
    """Draw DIR/report.html and its pictures from DIR/results.json, and show a summary."""
    try:
        from write_batcher.compare.report.page import load_results
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    _report(load_results(folder), folder)


def scenarios_of(names: list[str]) -> tuple[Scenario, ...]:
    """As `chosen_of`; `all` is all of them."""
    found = chosen_of(Scenario, (name for name in names if name != ALL), "scenario")
    return tuple(Scenario) if ALL in names else found


def settings_without(taken: frozenset[str], **flags: Any) -> Settings:
    """Of what the environment sets only `taken`: a result must follow from what is recorded with it."""
    defaults = {name: field.default for name, field in Settings.model_fields.items() if name not in taken}
    return load_settings(**defaults | flags)


def ignored_variables(taken: frozenset[str]) -> list[str]:
    """The variables of settings that are set, and not `taken`."""
    used = {f"{ENV_PREFIX}{name.upper()}" for name in taken}
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in used)


def chosen_of(kind: type[E], names: Iterable[str], what: str) -> tuple[E, ...]:
    """Members by their names, each once. Raises ConfigurationError for a name that is none, and for none at all."""
    allowed = ", ".join(kind)
    chosen: dict[E, None] = {}
    for name in (name.strip() for name in names):
        try:
            chosen[kind(name)] = None
        except ValueError:
            raise ConfigurationError(f"there is no {what} {name!r}; choose from {allowed}") from None
    return tuple(chosen)


def _new_folder(out: Path | None) -> Path:
    folder = out or RESULTS / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {folder} cannot be used ({error.strerror}): name another folder") from error
    if (folder / FILE_NAME).exists():
        raise ConfigurationError(f"--out {folder} holds the results of another comparison: name another folder")
    return folder


def _report(results: "Results", folder: Path) -> None:
    try:
        from write_batcher.compare.report.page import write_report
        from write_batcher.compare.report.summary import print_summary
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    path = write_report(results, folder)
    print_summary(make_console(), results)
    say(f"report: {path}")


def _not_installed(error: ModuleNotFoundError) -> ConfigurationError:
    if (error.name or "").startswith("write_batcher"):  # then this package is broken, and no other one is missing
        raise error
    return ConfigurationError(
        f"the comparison needs {error.name}: install it with `pip install 'write-batcher[compare,embedded,postgresql]'`"
    )
