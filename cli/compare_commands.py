"""The commands `write-batcher compare [SCENARIO...]` and `write-batcher compare report DIR`."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from write_batcher.cli.console import make_console, say
from write_batcher.cli.extras import needing
from write_batcher.cli.running import EXIT_FAILED, run_to_end
from write_batcher.compare.results import FILE_NAME, Contender, Scenario
from write_batcher.config import ENV_PREFIX, Settings, check_callers_outwait_batches, load_settings
from write_batcher.errors import ConfigurationError

if TYPE_CHECKING:
    from write_batcher.compare.results import Results

EXTRAS = "compare,embedded,postgresql"
RUN = "run"
ALL = "all"
RESULTS = Path("compare-results")

# What a comparison takes from the environment, and only with --own-servers: all else comes from flags or defaults.
ADDRESSES = frozenset({"redis_url", "database_url"})


class TargetDatabase(StrEnum):
    """The databases that can be written to."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


E = TypeVar("E", bound=StrEnum)


class RunByDefault(TyperGroup):
    """Lets `compare load --rounds 2` mean `compare run load --rounds 2`; a scenario must not have a command's name."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override] # its own Context
        """Parse `args`, with the default command in front if they name none."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [RUN, *args]
        return super().parse_args(ctx, args)


compare_app = typer.Typer(
    cls=RunByDefault,
    help="Compare designs for getting many workflows' writes into one database. The default command is `run`: "
    "see `compare run --help`.",
)


@compare_app.command(RUN)
def run_command(
    *,
    scenarios: Annotated[
        list[str] | None, typer.Argument(metavar="SCENARIO", help=f"{', '.join(Scenario)}, or all (the default).")
    ] = None,
    workflows: Annotated[int, typer.Option(min=1, max=100_000, help="Callers in load, crash and poison.")] = 300,
    requests: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Requests that growth and ceiling push without callers.")
    ] = 12_000,
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="How often everything is run.")] = 1,
    contenders: Annotated[str, typer.Option(metavar="NAMES", help="Designs to compare, comma-separated.")] = ",".join(
        Contender
    ),
    databases: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Default: sqlite,postgresql. The scenario load uses each, the others the first."
        ),
    ] = None,
    max_items: Annotated[int, typer.Option(min=1, max=10_000, help="Most requests in a batch.")] = 100,
    max_wait: Annotated[
        str, typer.Option(metavar="DURATION", help="Age of the oldest request at which a batch closes.")
    ] = "2s",
    connection_limit: Annotated[
        int, typer.Option(min=4, max=1_000, help="Connections that the embedded PostgreSQL accepts.")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Seed for the order of the contenders in each round.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Folder for the results. Default: {RESULTS}/TIME.")
    ] = None,
    own_servers: Annotated[
        bool,
        typer.Option(
            "--own-servers",
            help="Use the servers that the environment names, not embedded ones. Then actions and the servers' CPU are "
            "not measured, and rows and ledger entries stay there.",
        ),
    ] = False,
) -> None:
    """Run contenders through scenarios, save DIR/results.json after each run, and draw the report.

    Ends with status 1 when this library lost a write, made one twice or failed a caller whose write was made, or when
    something could not be measured.
    """
    chosen = parse_scenarios(scenarios or [ALL])
    chosen_contenders = parse_names(Contender, contenders.split(","), "contender")
    chosen_databases = parse_names(TargetDatabase, (databases or ",".join(TargetDatabase)).split(","), "database")
    inherited = ADDRESSES if own_servers else frozenset()
    settings = settings_inheriting(inherited, max_items=max_items, max_wait=max_wait, log_format="json")
    check_callers_outwait_batches(settings)
    with needing(EXTRAS, "The comparison"):
        from write_batcher.cli.compare_view import CompareScreen
        from write_batcher.compare.comparison import Comparison, runs_with_broken_promises
        from write_batcher.compare.scale import Scale
        from write_batcher.compare.servers import database_of
        from write_batcher.compare.signal_batcher.batcher_limits import MAX_BATCH_ITEMS
    if Contender.SIGNAL in chosen_contenders and max_items > MAX_BATCH_ITEMS:
        raise ConfigurationError(
            f"Option --max-items {max_items} is too high for signal, whose batches hold {MAX_BATCH_ITEMS} requests at "
            "most: lower it, or leave signal out of --contenders."
        )
    if own_servers:
        own_database = TargetDatabase(database_of(settings.database_url))
        if databases is not None and chosen_databases != (own_database,):
            raise ConfigurationError(
                f"Option --databases {databases} requires embedded servers, as WRITE_BATCHER_DATABASE_URL names "
                f"{own_database}: leave out --databases or --own-servers."
            )
        chosen_databases = (own_database,)
    folder = _new_folder(out)
    if ignored := ignored_variables(inherited):
        say(f"ignored, because a comparison is configured by flags: {', '.join(ignored)}")
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
        comparison = Comparison(scale, settings, folder, screen, on_existing_servers=own_servers)
        try:
            results = run_to_end(comparison.run())
        except BaseException:
            if comparison.results.runs:
                say(f"not complete; for what was measured: write-batcher compare report {folder}")
            raise
    _report(results, folder)
    if runs_with_broken_promises(results) or not all(run.figures for run in results.runs):
        raise typer.Exit(EXIT_FAILED)


@compare_app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the results.json of a comparison.")],
) -> None:
    """Draw DIR/report.html and its pictures from DIR/results.json, and show a summary."""
    with needing(EXTRAS, "The comparison"):
        from write_batcher.compare.report.page import load_results
    _report(load_results(folder), folder)


def parse_scenarios(names: list[str]) -> tuple[Scenario, ...]:
    """Parse the names of scenarios as `parse_names` does, where `all` stands for all of them."""
    found = parse_names(Scenario, (name for name in names if name != ALL), "scenario")
    return tuple(Scenario) if ALL in names else found


def settings_inheriting(inherited: frozenset[str], **flags: Any) -> Settings:
    """Build settings from `flags` and defaults, and only for the settings `inherited` from the environment.

    Results must follow from what is recorded with them, and variables are not. Raises `ConfigurationError`.
    """
    defaults = {name: field.default for name, field in Settings.model_fields.items() if name not in inherited}
    return load_settings(**defaults | flags)


def ignored_variables(inherited: frozenset[str]) -> list[str]:
    """Return the WRITE_BATCHER_* variables that are set but not for one of the settings `inherited`."""
    used = {f"{ENV_PREFIX}{name.upper()}" for name in inherited}
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in used)


def parse_names(kind: type[E], names: Iterable[str], what: str) -> tuple[E, ...]:
    """Return the members of `kind` with these names, each once. Raises `ConfigurationError` for an unknown name."""
    allowed = ", ".join(kind)
    chosen: dict[E, None] = {}
    for name in (name.strip() for name in names):
        try:
            chosen[kind(name)] = None
        except ValueError:
            raise ConfigurationError(f"There is no {what} {name!r}: choose from {allowed}.") from None
    return tuple(chosen)


def _new_folder(out: Path | None) -> Path:
    folder = out or RESULTS / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"Folder {folder} cannot be used ({error.strerror}): choose another --out.") from error
    if (folder / FILE_NAME).exists():
        raise ConfigurationError(f"Folder {folder} holds the results of another comparison: choose another --out.")
    return folder


def _report(results: "Results", folder: Path) -> None:
    with needing(EXTRAS, "The comparison"):
        from write_batcher.compare.report.page import write_report
        from write_batcher.compare.report.summary import print_summary
    path = write_report(results, folder)
    print_summary(make_console(), results)
    say(f"report: {path}")
