"""Options that several groups of commands share, made from the settings."""

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer

from write_batcher.config import ENV_PREFIX, Settings, as_text, load_settings, parse_duration
from write_batcher.errors import ConfigurationError

LIMITS = ("pace", "max_rate", "target_latency")
BATCHES = ("max_items", "max_wait", "max_bytes", "partitions", *LIMITS)
REQUESTS = ("max_request_bytes", "max_backlog")
DEAD_LETTERS = ("max_dead_letters", "dead_letter_retention")
CALLERS = ("confirm_by", "confirm_timeout", "submit_timeout")

SHORTEST_REFRESH = timedelta(milliseconds=100)

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead.")]
EachAsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON for each instead.")]
ResultAsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON at the end.")]
Once = Annotated[bool, typer.Option("--once", help="Show everything once, and exit.")]
Every = Annotated[str, typer.Option(metavar="DURATION", help="How often to refresh.")]


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of the settings `names`, and pass it all settings as `settings`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def command_with_settings(**arguments: Any) -> None:
            flags = {name: arguments.pop(name) for name in names}
            command(settings=load_settings(**flags), **arguments)

        given = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "settings"]
        parameters = [*given, *map(_option, names)]
        command_with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command_with_settings.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command_with_settings

    return decorate


def _option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    description, default = field.description or name, as_text(field.default)
    source = f"{ENV_PREFIX}{name.upper()}" + (f", default: {default}" if default else "")
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar="VALUE",
        help=f"{description[0].upper()}{description[1:]} ({source}).",
    )
    annotation = Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def parse_refresh(every: str) -> timedelta:
    """Parse the option `--every` of a monitor, a duration of at least 100 ms. Raises `ConfigurationError`."""
    try:
        refresh = parse_duration(every)
    except ValueError as error:
        raise ConfigurationError(f"Option --every {error}.") from None
    if refresh < SHORTEST_REFRESH:
        raise ConfigurationError(
            f"Option --every {every!r} is below the limit of 100ms: write a longer one, such as 2s."
        )
    return refresh
