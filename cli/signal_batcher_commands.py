"""The commands of the older design, a batcher fed by signals: `write-batcher signal-batcher ...`."""

import asyncio
import contextlib
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from write_batcher.cli.console import make_console, say
from write_batcher.cli.demo_view import Screen
from write_batcher.cli.options import AsJson, Every, Once, ResultAsJson, parse_refresh, with_settings
from write_batcher.cli.running import EXIT_FAILED, refresh_forever, run_to_end
from write_batcher.config import Settings

if TYPE_CHECKING:
    from write_batcher.compare.signal_batcher.batcher_monitor import BatcherView, Monitor

NOTES = 3  # changes of runs that stay in view

signal_batcher_app = typer.Typer(
    help="Run the older design, to compare with: a batcher workflow fed by signals. It needs no Redis.",
    no_args_is_help=True,
)
worker_app = typer.Typer(help="Run a worker process until SIGTERM or Ctrl-C.", no_args_is_help=True)
signal_batcher_app.add_typer(worker_app, name="worker")


@worker_app.command("main")
@with_settings("main_task_queue", "log_format")
def worker_main_command(*, settings: Settings) -> None:
    """Run the callers: their workflow and its business activity."""
    from write_batcher.compare.signal_batcher.roles import run_main_worker
    from write_batcher.workers.logs import log_to_stderr

    log_to_stderr(settings.log_format)
    run_to_end(run_main_worker(settings))


@worker_app.command("batcher")
@with_settings(
    "database_url",
    "tables",
    "queue",
    "partitions",
    "max_items",
    "max_wait",
    "deduplication_window",
    "batcher_task_queue",
    "log_format",
)
def worker_batcher_command(*, settings: Settings) -> None:
    """Run the batchers, one per partition: collect requests, and write them to the first of the tables."""
    from write_batcher.compare.signal_batcher.roles import run_batcher_worker
    from write_batcher.workers.logs import log_to_stderr

    log_to_stderr(settings.log_format)
    run_to_end(run_batcher_worker(settings))


@signal_batcher_app.command("start")
@with_settings("queue", "partitions", "main_task_queue", "confirm_timeout", "submit_timeout")
def start_command(
    *,
    settings: Settings,
    workflows: Annotated[int, typer.Option(min=1, max=100_000, help="How many workflows to start.")] = 10,
    as_json: ResultAsJson = False,
) -> None:
    """Start callers, wait for them and report. Give --partitions as the batcher worker has it."""
    from write_batcher.compare.signal_batcher.roles import start_main_workflows
    from write_batcher.workers.connections import connect_temporal
    from write_batcher.workers.embedded.starter import new_series, wait_for

    async def run() -> bool:
        client = await connect_temporal()
        with Screen(workflows) as screen:
            handles = await start_main_workflows(client, settings, new_series(), workflows, on_started=screen.started)
            outcomes = await wait_for(handles, on_ended=screen.ended)
        screen.show_outcomes(workflows, outcomes, as_json=as_json)
        return outcomes.failed == 0

    if not run_to_end(run()):
        raise typer.Exit(EXIT_FAILED)


@signal_batcher_app.command("monitor")
@with_settings("queue", "partitions")
def monitor_command(
    *,
    settings: Settings,
    once: Once = False,
    as_json: AsJson = False,
    every: Every = "2s",
) -> None:
    """Show the state of the batchers until Ctrl-C. Each refresh sends one query to each of them."""
    refresh = parse_refresh(every)

    async def show() -> None:
        from write_batcher.cli.signal_batcher_view import batchers_json, print_batchers
        from write_batcher.compare.signal_batcher.batcher_monitor import Monitor
        from write_batcher.workers.connections import connect_temporal

        monitor = Monitor(await connect_temporal(), settings.queue, settings.partitions)
        if once:
            views = await monitor.look()
            if as_json:
                say(batchers_json(views))
            else:
                print_batchers(make_console(), views)
            return
        # This command is meant to be ended by Ctrl-C or SIGTERM, and has not failed then.
        with contextlib.suppress(asyncio.CancelledError):
            await _show_live(monitor, as_json, refresh)

    run_to_end(show())


async def _show_live(monitor: "Monitor", as_json: bool, refresh: timedelta) -> None:
    from write_batcher.cli.signal_batcher_view import batchers_json, live_batchers, print_batchers, runs_followed

    console = make_console()
    views: list[BatcherView] = []
    followed: deque[str] = deque(maxlen=NOTES)

    async def look() -> None:
        views[:] = await monitor.look()
        followed.extend(runs_followed(views))

    def show() -> None:
        if as_json:
            say(batchers_json(views))
        else:
            print_batchers(console, views)

    live = (lambda problem: live_batchers(views, followed, problem)) if console.is_terminal and not as_json else None
    await refresh_forever(look, live=live, show=show, refresh=refresh)
