"""The command `write-batcher schema print`, for whoever creates the tables of the write ledger."""

import typer

from write_batcher.cli.console import say
from write_batcher.cli.options import with_settings
from write_batcher.config import Settings

schema_app = typer.Typer(help="The write ledger in the target database.", no_args_is_help=True)


@schema_app.callback()
def _group() -> None:
    """The write ledger in the target database."""  # with one command and no callback, the group would be the command


@schema_app.command("print")
@with_settings("database_url")
def print_command(*, settings: Settings) -> None:
    """Print the DDL of the ledger's tables for the kind of database that the URL names. Nothing is connected to."""
    from write_batcher.sinks.sql.schema import ddl

    say(ddl(settings.database_url).rstrip())
