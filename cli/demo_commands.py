"""The commands `write-batcher demo`, `up` and `start`, which run the example."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from write_batcher.cli.demo_view import Screen, demo_json
from write_batcher.cli.options import BATCHES, CALLERS, REQUESTS, ResultAsJson, with_settings
from write_batcher.cli.running import EXIT_FAILED, run_to_end, until_interrupted
from write_batcher.config import Settings, check_callers_outwait_batches
from write_batcher.errors import ConfigurationError

Workflows = Annotated[int, typer.Option(min=1, max=100_000, help="How many workflows to start.")]
Bad = Annotated[int, typer.Option(min=0, help="How many of these write a record that the database refuses.")]
EmbeddedDatabase = Annotated[
    Literal["sqlite", "postgresql"],
    typer.Option("--database", help="Database to write to: a SQLite file, or an embedded PostgreSQL."),
]
DataDir = Annotated[Path | None, typer.Option("--data", help="Keep all data in this folder, for later runs too.")]


@with_settings(*BATCHES, *REQUESTS, *CALLERS)
def demo_command(
    *,
    settings: Settings,
    workflows: Workflows = 250,
    bad: Bad = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running until Ctrl-C, to look around.")
    ] = False,
    as_json: ResultAsJson = False,
    database: EmbeddedDatabase = "sqlite",
    data: DataDir = None,
) -> None:
    """Start servers and both workers, run workflows, and count the rows in the database."""
    from write_batcher.workers.embedded.demo import demo

    check_callers_outwait_batches(settings)

    async def run() -> bool:
        screen = Screen(workflows)
        async with AsyncExitStack() as stack:
            with screen:
                report = await stack.enter_async_context(
                    demo(
                        settings, workflows, screen, bad=_checked_bad(bad, workflows), database=database, data_dir=data
                    )
                )
            if keep:
                screen.say("Everything keeps running until Ctrl-C. For other commands and workers:")
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


def up_command(*, data: DataDir = None) -> None:
    """Run Temporal with its Web UI and Redis on their standard ports until Ctrl-C."""
    from write_batcher.workers.embedded.local_stack import Ports, local_stack

    async def run() -> None:
        screen = Screen(0)
        async with local_stack(data_dir=data, ports=Ports()) as stack:
            screen.say_exports({"TEMPORAL_ADDRESS": stack.temporal_address, "WRITE_BATCHER_REDIS_URL": stack.redis_url})
            screen.say(f"Web UI: {stack.ui_url}. Data: {stack.data_dir}. Ctrl-C ends everything.")
            await until_interrupted()

    run_to_end(run())


@with_settings("queue", "main_task_queue", "batcher_task_queue", *CALLERS)
def start_command(
    *,
    settings: Settings,
    workflows: Workflows = 10,
    bad: Bad = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the workflows and report.")] = True,
    as_json: ResultAsJson = False,
) -> None:
    """Start MainWorkflows on the Temporal server that the environment names."""
    from write_batcher.workers.connections import connect_temporal
    from write_batcher.workers.embedded.starter import new_series, start_workflows, wait_for

    async def run() -> bool:
        client = await connect_temporal()
        series = new_series()
        with Screen(workflows, wait=wait) as screen:
            handles = await start_workflows(
                client, settings, series, workflows, bad=_checked_bad(bad, workflows), on_started=screen.started
            )
            if not wait:
                screen.say(f"started {workflows} workflows, {series}0 to {series}{workflows - 1}")
                return True
            outcomes = await wait_for(handles, on_ended=screen.ended)
        screen.show_outcomes(workflows, outcomes, as_json=as_json)
        return outcomes.failed == 0

    if not run_to_end(run()):
        raise typer.Exit(EXIT_FAILED)


def _checked_bad(bad: int, workflows: int) -> int:
    if bad > workflows:
        raise ConfigurationError(f"Option --bad {bad} is above --workflows {workflows}: lower it.")
    return bad
