"""The commands of the comparison: `write-batcher compare ...`."""

from pathlib import Path
from typing import Annotated

import typer

from write_batcher.console import make_console, say
from write_batcher.errors import ConfigurationError

compare_app = typer.Typer(
    help="Compare designs of getting many workflows' writes into one database.", no_args_is_help=True
)


@compare_app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the results.json of a comparison is.")],
) -> None:
    """Draw DIR/report.html and its pictures from DIR/results.json, and show a summary."""
    try:
        from write_batcher.compare.report import load_results, print_summary, write_report
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the report needs {error.name}: install it with `pip install 'write-batcher[compare]'`"
        ) from error

    results = load_results(folder)
    path = write_report(results, folder)
    print_summary(make_console(), results)
    say(f"report: {path}")
