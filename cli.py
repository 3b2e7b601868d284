"""The command `write-batcher`. Imports are inside the commands, so that `--help` answers at once."""

import asyncio
import contextlib
import functools
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from write_batcher.config import ENV_PREFIX, Settings, as_text, load_settings
from write_batcher.errors import ConfigurationError, TemporalUnavailable, WriteBatcherError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

BATCHES = ("max_items", "max_wait", "max_bytes", "partitions")
REQUESTS = ("max_request_bytes", "max_backlog")
CALLERS = ("confirm_by", "confirm_timeout", "submit_timeout")

T = TypeVar("T")

app = typer.Typer(
    help="Many Temporal workflows write to one database in batches, through a Redis stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
worker_app = typer.Typer(help="Run a worker process until SIGTERM or Ctrl-C.", no_args_is_help=True)
app.add_typer(worker_app, name="worker")

Workflows = Annotated[int, typer.Option(min=1, max=100_000, help="How many workflows to start.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with the result as one line of JSON.")]
DataDir = Annotated[Path | None, typer.Option("--data", help="Keep all data in this folder, and go on with it.")]


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these settings, and hand it all settings as its argument `settings`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def command_with_settings(**arguments: Any) -> None:
            flags = {name: arguments.pop(name) for name in names}
            command(settings=load_settings(**flags), **arguments)

        own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "settings"]
        parameters = [*own, *map(_option, names)]
        command_with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command_with_settings.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command_with_settings

    return decorate


def _option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar="VALUE",
        help=f"{field.description} (else {ENV_PREFIX}{name.upper()}, else {as_text(field.default)})",
    )
    annotation = Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@app.command("demo")
@with_settings(*BATCHES, *REQUESTS, *CALLERS)
def demo_command(
    *,
    settings: Settings,
    workflows: Workflows = 250,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up until Ctrl-C, to look around.")] = False,
    as_json: AsJson = False,
    data: DataDir = None,
) -> None:
    """Start servers and both workers, run workflows through them, and count the rows in the database."""
    from write_batcher.console import Screen, demo_json
    from write_batcher.workers.demo import demo

    async def run() -> bool:
        screen = Screen(workflows)
        async with AsyncExitStack() as stack:
            with screen:
                report = await stack.enter_async_context(demo(settings, workflows, screen, data_dir=data))
            if keep:
                screen.say("Everything stays up until Ctrl-C. For other commands and workers:")
                screen.say_exports(report.environment)
            if as_json:
                screen.say(demo_json(report))
            else:
                screen.show_demo(report)
            if keep:
                await _until_interrupted()
        return report.ok

    if not _run(run()):
        raise typer.Exit(EXIT_FAILED)


@app.command("up")
def up_command(*, data: DataDir = None) -> None:
    """Run Temporal with its Web UI and Redis on their standard ports until Ctrl-C."""
    from write_batcher.console import Screen
    from write_batcher.workers.local import Ports, local_stack

    async def run() -> None:
        screen = Screen(0)
        async with local_stack(data_dir=data, ports=Ports()) as stack:
            screen.say_exports({"TEMPORAL_ADDRESS": stack.temporal_address, "WRITE_BATCHER_REDIS_URL": stack.redis_url})
            screen.say(f"Web UI: {stack.ui_url}. Data: {stack.data_dir}. Ctrl-C ends all.")
            await _until_interrupted()

    _run(run())


@worker_app.command("main")
@with_settings("redis_url", "main_task_queue", *REQUESTS, "log_format")
def worker_main_command(*, settings: Settings) -> None:
    """Callers: MainWorkflow, its business activity and the enqueue activity."""
    from write_batcher.workers.logs import log_to_stderr
    from write_batcher.workers.main import run_main_worker

    log_to_stderr(settings.log_format)
    _run(run_main_worker(settings))


@worker_app.command("batcher")
@with_settings("redis_url", "database_url", "tables", "queue", *BATCHES, "batcher_task_queue", "log_format")
def worker_batcher_command(*, settings: Settings) -> None:
    """The batcher: drains the queue into the database."""
    from write_batcher.workers.batcher import run_batcher_worker
    from write_batcher.workers.logs import log_to_stderr

    log_to_stderr(settings.log_format)
    _run(run_batcher_worker(settings))


@app.command("start")
@with_settings("queue", "main_task_queue", "batcher_task_queue", *CALLERS)
def start_command(
    *,
    settings: Settings,
    workflows: Workflows = 10,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the workflows and report.")] = True,
    as_json: AsJson = False,
) -> None:
    """Start MainWorkflows on the Temporal server that the environment names."""
    from write_batcher.console import Screen, outcomes_as_dict
    from write_batcher.workers.connections import connect_temporal
    from write_batcher.workers.starter import new_series, start_workflows, wait_for

    async def run() -> bool:
        client = await connect_temporal()
        series = new_series()
        with Screen(workflows, wait=wait) as screen:
            handles = await start_workflows(client, settings, series, workflows, on_started=screen.started)
            if not wait:
                screen.say(f"started {workflows} workflows, {series}0 to {series}{workflows - 1}")
                return True
            outcomes = await wait_for(handles, on_ended=screen.ended)
        if as_json:
            screen.say(json.dumps(outcomes_as_dict(workflows, outcomes)))
        else:
            screen.show_outcomes(workflows, outcomes)
        return outcomes.failed == 0

    if not _run(run()):
        raise typer.Exit(EXIT_FAILED)


def _run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, with SIGTERM as good as Ctrl-C: contexts are left in order, children end first."""

    from temporalio.service import RPCError

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except RPCError as error:
        raise TemporalUnavailable(f"Temporal stopped answering ({error}): look whether it runs") from error


async def _until_interrupted() -> None:
    """Return at Ctrl-C or SIGTERM: then it is the way to end a command, and no failure."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.get_running_loop().create_future()


def main() -> NoReturn:
    """Run the command and end the process with its status: 0 done, 1 failed, 2 wrong usage or surroundings."""
    try:
        app()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else EXIT_FAILED
    except ConfigurationError as error:
        print(f"write-batcher: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        status = EXIT_USAGE
    except WriteBatcherError as error:
        print(f"write-batcher: {error}", file=sys.stderr)  # noqa: T201
        status = EXIT_FAILED
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except Exception:  # noqa: BLE001 - a defect; the process must still end as below
        traceback.print_exc()
        status = EXIT_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # A process that used temporalio may abort while Python exits (sdk-python#300); everything is closed by now.
    os._exit(status)


if __name__ == "__main__":
    main()
