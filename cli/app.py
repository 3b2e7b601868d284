"""The command `write-batcher`. Drivers are imported inside the commands, so that `--help` answers at once."""

import os
import sys
import traceback
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from write_batcher.cli.compare_commands import compare_app
from write_batcher.cli.console import Screen, complain, demo_json
from write_batcher.cli.dead_letter_commands import dead_letters_app
from write_batcher.cli.queue_commands import monitor_command, queue_app
from write_batcher.cli.running import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    run_to_end,
    until_interrupted,
    with_settings,
)
from write_batcher.cli.signal_batcher_commands import signal_batcher_app
from write_batcher.config import Settings
from write_batcher.errors import ConfigurationError, WriteBatcherError

BATCHES = ("max_items", "max_wait", "max_bytes", "partitions")
REQUESTS = ("max_request_bytes", "max_backlog")
CALLERS = ("confirm_by", "confirm_timeout", "submit_timeout")

app = typer.Typer(
    help="Many Temporal workflows write to one database in batches, through a Redis stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
worker_app = typer.Typer(help="Run a worker process until SIGTERM or Ctrl-C.", no_args_is_help=True)
app.add_typer(worker_app, name="worker")
app.add_typer(queue_app, name="queue")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(signal_batcher_app, name="signal-batcher")
app.add_typer(compare_app, name="compare")

Workflows = Annotated[int, typer.Option(min=1, max=100_000, help="How many workflows to start.")]
Bad = Annotated[int, typer.Option(min=0, help="How many of them write a record that the database refuses.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with the result as one line of JSON.")]
EmbeddedDatabase = Annotated[
    Literal["sqlite", "postgresql"], typer.Option("--database", help="What to write to: a file, or an embedded server.")
]
DataDir = Annotated[Path | None, typer.Option("--data", help="Keep all data in this folder, and go on with it.")]


@app.command("demo")
@with_settings(*BATCHES, *REQUESTS, *CALLERS)
def demo_command(
    *,
    settings: Settings,
    workflows: Workflows = 250,
    bad: Bad = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up until Ctrl-C, to look around.")] = False,
    as_json: AsJson = False,
    database: EmbeddedDatabase = "sqlite",
    data: DataDir = None,
) -> None:
    """Start servers and both workers, run workflows through them, and count the rows in the database."""
    from write_batcher.workers.embedded.demo import demo

    async def run() -> bool:
        screen = Screen(workflows)
        async with AsyncExitStack() as stack:
            with screen:
                report = await stack.enter_async_context(
                    demo(settings, workflows, screen, bad=_checked(bad, workflows), database=database, data_dir=data)
                )
            if keep:
                screen.say("Everything stays up until Ctrl-C. For other commands and workers:")
                screen.say_exports(report.environment)
            if as_json:
                screen.say(demo_json(report))
            else:
                screen.show_demo(report)
            if keep:
                await until_interrupted()
        return report.ok

    if not run_to_end(run()):
        raise typer.Exit(EXIT_FAILED)


@app.command("up")
def up_command(*, data: DataDir = None) -> None:
    """Run Temporal with its Web UI and Redis on their standard ports until Ctrl-C."""
    from write_batcher.workers.embedded.local_stack import Ports, local_stack

    async def run() -> None:
        screen = Screen(0)
        async with local_stack(data_dir=data, ports=Ports()) as stack:
            screen.say_exports({"TEMPORAL_ADDRESS": stack.temporal_address, "WRITE_BATCHER_REDIS_URL": stack.redis_url})
            screen.say(f"Web UI: {stack.ui_url}. Data: {stack.data_dir}. Ctrl-C ends all.")
            await until_interrupted()

    run_to_end(run())


@worker_app.command("main")
@with_settings("redis_url", "main_task_queue", *REQUESTS, "log_format")
def worker_main_command(*, settings: Settings) -> None:
    """Callers: MainWorkflow, its business activity and the enqueue activity."""
    from write_batcher.workers.logs import log_to_stderr
    from write_batcher.workers.main_worker import run_main_worker

    log_to_stderr(settings.log_format)
    run_to_end(run_main_worker(settings))


@worker_app.command("batcher")
@with_settings("redis_url", "database_url", "tables", "queue", *BATCHES, "batcher_task_queue", "log_format")
def worker_batcher_command(*, settings: Settings) -> None:
    """The batcher: drains the queue into the database."""
    from write_batcher.workers.batcher_worker import run_batcher_worker
    from write_batcher.workers.logs import log_to_stderr

    log_to_stderr(settings.log_format)
    run_to_end(run_batcher_worker(settings))


@app.command("start")
@with_settings("queue", "main_task_queue", "batcher_task_queue", *CALLERS)
def start_command(
    *,
    settings: Settings,
    workflows: Workflows = 10,
    bad: Bad = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the workflows and report.")] = True,
    as_json: AsJson = False,
) -> None:
    """Start MainWorkflows on the Temporal server that the environment names."""
    from write_batcher.workers.connections import connect_temporal
    from write_batcher.workers.embedded.starter import new_series, start_workflows, wait_for

    async def run() -> bool:
        client = await connect_temporal()
        series = new_series()
        with Screen(workflows, wait=wait) as screen:
            handles = await start_workflows(
                client, settings, series, workflows, bad=_checked(bad, workflows), on_started=screen.started
            )
            if not wait:
                screen.say(f"started {workflows} workflows, {series}0 to {series}{workflows - 1}")
                return True
            outcomes = await wait_for(handles, on_ended=screen.ended)
        screen.show_outcomes(workflows, outcomes, as_json=as_json)
        return outcomes.failed == 0

    if not run_to_end(run()):
        raise typer.Exit(EXIT_FAILED)


def _checked(bad: int, workflows: int) -> int:
    if bad > workflows:
        raise ConfigurationError(f"--bad {bad} is more than --workflows {workflows}: make it smaller")
    return bad


app.command("monitor")(monitor_command)


def main() -> NoReturn:
    """Run the command and end the process with its status: 0 done, 1 failed, 2 wrong usage or surroundings."""
    try:
        app()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else EXIT_FAILED
    except ConfigurationError as error:
        complain(str(error))
        status = EXIT_USAGE
    except WriteBatcherError as error:
        complain(str(error))
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
