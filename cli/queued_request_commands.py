"""The commands about what waits in a queue: `write-batcher queue list`, `reject`, `release` and `move`."""

from typing import TYPE_CHECKING, Annotated

import typer

from write_batcher.cli.console import make_console, say
from write_batcher.cli.options import EachAsJson, with_settings
from write_batcher.cli.queue_commands import connected
from write_batcher.cli.running import run_to_end
from write_batcher.config import Settings

if TYPE_CHECKING:
    from write_batcher.workers.operating.queued_requests import QueuedRequest

Name = Annotated[str, typer.Argument(metavar="ID", help="Its id, as `list` shows it.", show_default=False)]


@with_settings("redis_url", "queue")
def list_command(
    *,
    settings: Settings,
    held: Annotated[bool, typer.Option("--held", help="Only those that are held, with the reasons.")] = False,
    as_json: EachAsJson = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to show at most.")] = 100,
) -> None:
    """List requests that wait, the oldest of each partition first: as a table on a terminal, else separated by tabs."""
    from write_batcher.cli.queued_request_view import more_note, print_requests, request_json, request_line
    from write_batcher.models import QueueRef
    from write_batcher.workers.connections import connect_redis, temporal_namespace
    from write_batcher.workers.operating.queued_requests import QueuedRequests

    async def show() -> None:
        queue = QueueRef(namespace=temporal_namespace(), name=settings.queue)
        async with await connect_redis(settings) as redis:
            found: list[QueuedRequest] = []
            async for request in QueuedRequests(redis, queue).select(only_held=held):
                found.append(request)
                if len(found) > limit:
                    break
        shown = found[:limit]
        console = make_console()
        if console.is_terminal and not as_json:
            print_requests(console, shown)
        else:
            for request in shown:
                say(request_json(request) if as_json else request_line(request))
        if len(found) > limit:
            more_note(limit)

    run_to_end(show())


@with_settings("redis_url", "queue")
def reject_command(
    *,
    settings: Settings,
    name: Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for its caller and in its dead letter.")] = (
        "rejected by an operator"
    ),
) -> None:
    """Reject a request that is held or waits, and keep it as a dead letter. Its caller is told, if it can be read."""
    from write_batcher.workers.operating.given_orders import Orders
    from write_batcher.workers.operating.stream_ids import EntryId

    entry_id = EntryId.parse(name)

    async def reject() -> None:
        async with connected(settings) as (client, redis):
            say(f"{entry_id}: {await Orders(client, redis, settings.queue).reject(entry_id, reason)}")

    run_to_end(reject())


@with_settings("redis_url", "queue")
def release_command(*, settings: Settings, name: Name) -> None:
    """Try a request that is held at once, instead of after its back-off."""
    from write_batcher.escaping import escaped
    from write_batcher.workers.operating.given_orders import Orders
    from write_batcher.workers.operating.stream_ids import EntryId

    entry_id = EntryId.parse(name)

    async def release() -> None:
        async with connected(settings) as (client, redis):
            say(escaped(f"{entry_id}: {await Orders(client, redis, settings.queue).release(entry_id)}"))

    run_to_end(release())


@with_settings("redis_url", "queue")
def move_command(*, settings: Settings) -> None:
    """Let an empty queue be written to another database: the next batcher that starts decides which."""
    from write_batcher.workers.operating.moving import move_queue

    async def move() -> None:
        async with connected(settings) as (client, redis):
            say(f"{settings.queue}: {await move_queue(client, redis, settings.queue)}")

    run_to_end(move())
