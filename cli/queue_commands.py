"""The commands that inspect and control a queue: `write-batcher monitor`, `write-batcher queue ...`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from write_batcher.cli.console import make_console, print_error, say
from write_batcher.cli.options import AsJson, Every, Once, parse_refresh, with_settings
from write_batcher.cli.running import EXIT_FAILED, refresh_forever, run_to_end
from write_batcher.config import Settings
from write_batcher.errors import ConfigurationError, OperationFailed

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from temporalio.client import Client

    from write_batcher.models import PartitionRef
    from write_batcher.workers.operating.control import Verb
    from write_batcher.workers.operating.monitor import Monitor, PartitionView

CONCURRENT_STEERS = 32  # partitions

queue_app = typer.Typer(help="Inspect and control the batcher of a queue.", no_args_is_help=True)

Live = Annotated[str | None, typer.Option(metavar="VALUE", help="As of the batcher worker, or none, or default.")]
Partition = Annotated[str | None, typer.Option(metavar="N", help="Only this partition instead of all.")]


@with_settings("redis_url", "queue")
def monitor_command(
    *,
    settings: Settings,
    once: Once = False,
    as_json: AsJson = False,
    every: Every = "2s",
) -> None:
    """Show the state of a queue until Ctrl-C."""
    refresh = parse_refresh(every)

    async def show() -> None:
        async with connected(settings) as (client, redis):
            monitor = _monitor(settings, client, redis)
            if once:
                await _show_once(monitor, as_json)
                return
            # This command is meant to be ended by Ctrl-C or SIGTERM, and has not failed then.
            with contextlib.suppress(asyncio.CancelledError):
                await _show_live(monitor, as_json, refresh)

    run_to_end(show())


@queue_app.command("status")
@with_settings("redis_url", "queue")
def status_command(*, settings: Settings, partition: Partition = None, as_json: AsJson = False) -> None:
    """Show the state of a queue once, like `monitor --once`; also of one partition."""
    only = _partition_number(partition)

    async def show() -> None:
        async with connected(settings) as (client, redis):
            await _show_once(_monitor(settings, client, redis), as_json, only)

    run_to_end(show())


@queue_app.command("pause")
@with_settings("redis_url", "queue")
def pause_command(*, settings: Settings, partition: Partition = None) -> None:
    """Stop draining once what is in flight is finished: requests wait in the stream."""
    _steer(settings, "pause", partition)


@queue_app.command("resume")
@with_settings("redis_url", "queue")
def resume_command(*, settings: Settings, partition: Partition = None) -> None:
    """Resume draining after a pause, also after one by Temporal's own command."""
    _steer(settings, "resume", partition)


@queue_app.command("flush")
@with_settings("redis_url", "queue")
def flush_command(*, settings: Settings, partition: Partition = None) -> None:
    """Have the open batch written now. Returns when a drain that runs has been asked for it."""
    _steer(settings, "flush", partition)


@queue_app.command("stop")
@with_settings("redis_url", "queue")
def stop_command(*, settings: Settings, partition: Partition = None) -> None:
    """End the batcher workflow once what is in flight is finished. It starts again with the next batcher worker."""
    _steer(settings, "stop", partition)


@queue_app.command("set")
@with_settings("redis_url", "queue")
def set_command(
    *,
    settings: Settings,
    pace: Live = None,
    max_rate: Live = None,
    target_latency: Live = None,
    max_items: Live = None,
    max_wait: Live = None,
) -> None:
    """Set limits of a queue while its batchers run: a value, `none` for no limit, `default` for the batchers' own.

    All batchers of the queue follow within 7 seconds, and those that start later, too.
    """
    from write_batcher.cli.queue_view import limits_text
    from write_batcher.models import QueueRef
    from write_batcher.workers.connections import connect_redis, temporal_namespace
    from write_batcher.workers.operating.live_settings import set_live

    options = {
        "pace": pace,
        "max_rate": max_rate,
        "target_latency": target_latency,
        "max_items": max_items,
        "max_wait": max_wait,
    }
    given = {name: text for name, text in options.items() if text is not None}
    if not given:
        names = [f"--{name.replace('_', '-')}" for name in options]
        raise ConfigurationError(f"There is nothing to set: give {', '.join(names[:-1])} or {names[-1]}.")

    async def set_all() -> None:
        queue = QueueRef(namespace=temporal_namespace(), name=settings.queue)
        async with await connect_redis(settings) as redis:
            say(f"{settings.queue}: {limits_text(await set_live(redis, queue, given))}")

    run_to_end(set_all())


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[tuple["Client", "Redis"]]:
    """Connect to the Temporal and the Redis that the environment and `settings` name."""
    from write_batcher.workers.connections import connect_redis, connect_temporal

    client = await connect_temporal()
    async with await connect_redis(settings) as redis:
        yield client, redis


def _monitor(settings: Settings, client: "Client", redis: "Redis") -> "Monitor":
    from write_batcher.workers.operating.monitor import Monitor

    return Monitor(client, redis, settings.queue)


async def _show_once(monitor: "Monitor", as_json: bool, only: int | None = None) -> None:
    from write_batcher.cli.queue_view import print_views, views_json

    views = await monitor.look(only)
    if as_json:
        say(views_json(monitor.queue, views))
    else:
        print_views(make_console(), views)


async def _show_live(monitor: "Monitor", as_json: bool, refresh: timedelta) -> None:
    from write_batcher.cli.queue_view import live_view, print_views, views_json

    console = make_console()
    views: list[PartitionView] = []

    async def look() -> None:
        views[:] = await monitor.look()

    def show() -> None:
        if as_json:
            say(views_json(monitor.queue, views))
        else:
            print_views(console, views)

    live = (lambda problem: live_view(console, views, problem)) if console.is_terminal and not as_json else None
    await refresh_forever(look, live=live, show=show, refresh=refresh)


def _steer(settings: Settings, verb: str, partition: str | None) -> None:
    from write_batcher.models import QueueRef
    from write_batcher.workers.operating.control import Verb
    from write_batcher.workers.operating.known_partitions import partitions_of

    only = _partition_number(partition)

    async def steer_all() -> bool:
        async with connected(settings) as (client, redis):
            queue = QueueRef(namespace=client.namespace, name=settings.queue)
            partitions = await partitions_of(redis, queue, only)
            slots = asyncio.Semaphore(CONCURRENT_STEERS)
            done = await asyncio.gather(*(_steer_one(client, one, Verb(verb), slots) for one in partitions))
            return all(done)

    if not run_to_end(steer_all()):
        raise typer.Exit(EXIT_FAILED)


async def _steer_one(client: "Client", partition: "PartitionRef", verb: "Verb", slots: asyncio.Semaphore) -> bool:
    from write_batcher.workers.operating.control import steer

    async with slots:
        try:
            say(f"{partition}: {await steer(client, partition, verb)}")
        except OperationFailed as error:
            print_error(str(error))
            return False
        return True


def _partition_number(partition: str | None) -> int | None:
    if partition is None:
        return None
    if not (partition.isascii() and partition.isdigit()):
        raise ConfigurationError(
            f"Option --partition {partition!r} is not the number of a partition: write 0, 1 or higher."
        )
    return int(partition)
