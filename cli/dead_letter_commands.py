"""The commands that list, show, replay and discard dead letters: `write-batcher dead-letters ...`."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from write_batcher.cli.console import make_console, say
from write_batcher.cli.options import EachAsJson, with_settings
from write_batcher.cli.running import EXIT_FAILED, run_to_end
from write_batcher.config import Settings
from write_batcher.errors import OperationFailed
from write_batcher.escaping import escaped

if TYPE_CHECKING:
    from write_batcher.workers.operating.dead_letter_callers import LeftBecause
    from write_batcher.workers.operating.dead_letter_repair import Letter, QueueLetters
    from write_batcher.workers.operating.dead_letter_selection import Selection

dead_letters_app = typer.Typer(
    help="List, show, replay or discard entries that could not be written.", no_args_is_help=True
)

LetterName = Annotated[
    str | None, typer.Argument(metavar="ID", help="The one with this id, as `list` shows it.", show_default=False)
]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="All with TEXT in their reason.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of the queue.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")]


@dead_letters_app.command("list")
@with_settings("redis_url", "queue")
def list_command(*, settings: Settings, as_json: EachAsJson = False) -> None:
    """List id, age, request id, table and reason: as a table on a terminal, separated by tabs in a pipe."""
    from write_batcher.cli.dead_letter_view import letter_json, letter_line, print_letters
    from write_batcher.workers.operating.dead_letter_selection import Selection

    console = make_console()

    async def show() -> None:
        async with _letters(settings) as letters:
            found = letters.select(Selection())
            if console.is_terminal and not as_json:
                print_letters(console, [letter async for letter in found])
                return
            async for letter in found:
                say(letter_json(letter) if as_json else letter_line(letter))

    run_to_end(show())


@dead_letters_app.command("show")
@with_settings("redis_url", "queue")
def show_command(
    *, settings: Settings, letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, as `list` shows it.")]
) -> None:
    """Show everything about one dead letter, including its record."""
    from write_batcher.cli.dead_letter_view import print_letter
    from write_batcher.workers.operating.dead_letter_selection import Selection

    selection = Selection.parse(letter_id, None, everything=False)

    async def show() -> None:
        async with _letters(settings) as letters:
            async for letter in _selected(letters, selection):
                print_letter(make_console(), letter)

    run_to_end(show())


@dead_letters_app.command("replay")
@with_settings("redis_url", "queue")
def replay_command(
    *,
    settings: Settings,
    letter_id: LetterName = None,
    reason: Reason = None,
    everything: All = False,
    also_failed: Annotated[
        bool,
        typer.Option("--also-failed", help="Also those whose callers were told that they are not written, or ended."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Put requests back under their own ids, once the cause is repaired: those without a caller, and those whose
    callers still wait for it, who then get a new receipt. Signed ones need the batcher's WRITE_BATCHER_SIGNING_KEY.
    """
    from write_batcher.workers.connections import connect_temporal
    from write_batcher.workers.operating.dead_letter_callers import LetterCallers
    from write_batcher.workers.operating.dead_letter_selection import Selection

    selection = Selection.parse(letter_id, reason, everything)

    async def replay() -> bool:
        async with _letters(settings) as letters:
            await letters.check_key(selection)  # before any is replayed
            callers = LetterCallers(await connect_temporal())
            done = 0
            left: Counter[LeftBecause] = Counter()
            async for letter in _selected(letters, selection):
                why = None if also_failed else await callers.reason_to_leave(letter)
                if why:
                    left[why] += 1
                    _report(letter, f"{'would be left' if dry_run else 'left'}, {why.value}")
                elif dry_run:
                    done += 1
                    _report(letter, f"would be replayed: {letter.dead.reason}")
                else:
                    entry_id = await letters.replay(letter)
                    done += entry_id is not None
                    _report(letter, "replayed" if entry_id else None)
            _report_replay(done, left, dry_run)
            return done > 0 or not left or selection.letter_id is None

    if not run_to_end(replay()):
        raise typer.Exit(EXIT_FAILED)


@dead_letters_app.command("discard")
@with_settings("redis_url", "queue")
def discard_command(
    *,
    settings: Settings,
    letter_id: LetterName = None,
    reason: Reason = None,
    everything: All = False,
    dry_run: DryRun = False,
) -> None:
    """Delete dead letters for good. Callers that still wait are told that their record will not be written."""
    from write_batcher.activities.drain.receipt_sender import ReceiptSender
    from write_batcher.workers.connections import connect_temporal
    from write_batcher.workers.operating.dead_letter_repair import CallerNotice
    from write_batcher.workers.operating.dead_letter_selection import Selection

    selection = Selection.parse(letter_id, reason, everything)

    async def discard() -> bool:
        async with _letters(settings) as letters:
            if dry_run:
                await _preview_discard(letters, selection)
                return True
            sender = ReceiptSender(await connect_temporal())
            done, failed_notices = 0, 0
            async for letter in _selected(letters, selection):
                notice = await letters.discard(letter, sender)
                done += notice is not None
                _report(letter, f"discarded, {notice.value}" if notice else None)
                if notice is CallerNotice.FAILED and letter.reply:
                    failed_notices += 1
                    say(f"  if workflow {letter.reply.workflow_id} still waits, cancel it: then it learns the outcome")
            say(f"{_dead_letters(done)} discarded")
            return failed_notices == 0

    if not run_to_end(discard()):
        raise typer.Exit(EXIT_FAILED)


@asynccontextmanager
async def _letters(settings: Settings) -> AsyncIterator["QueueLetters"]:
    from write_batcher.models import QueueRef
    from write_batcher.queue.signing import Signer
    from write_batcher.workers.connections import connect_redis, temporal_namespace
    from write_batcher.workers.operating.dead_letter_repair import QueueLetters

    queue = QueueRef(namespace=temporal_namespace(), name=settings.queue)
    signer = Signer(settings.signing_key.get_secret_value(), queue) if settings.signing_key else None
    async with await connect_redis(settings) as redis:
        yield QueueLetters(redis, queue, signer=signer)


async def _selected(letters: "QueueLetters", selection: "Selection") -> AsyncIterator["Letter"]:
    """The selected dead letters. Raises `OperationFailed` at the end when there were none."""
    found = False
    async for letter in letters.select(selection):
        found = True
        yield letter
    if not found:
        raise OperationFailed(f"There is no {selection}: `write-batcher dead-letters list` shows those that exist.")


async def _preview_discard(letters: "QueueLetters", selection: "Selection") -> None:
    number = 0
    async for letter in _selected(letters, selection):
        number += 1
        _report(letter, f"would be discarded: {letter.dead.reason}")
    say(f"{_dead_letters(number)} would be discarded; nothing has been changed")


def _report_replay(done: int, left: "Counter[LeftBecause]", dry_run: bool) -> None:
    say(
        f"{_dead_letters(done)} would be replayed; nothing has been changed"
        if dry_run
        else f"{_dead_letters(done)} replayed"
    )
    for why, number in left.items():
        say(f"{_dead_letters(number)} {'would be left' if dry_run else 'left'}: {why.value}")
    if left:
        say("--also-failed replays these too: what their callers were told is then no longer true")


def _report(letter: "Letter", done: str | None) -> None:
    done = done or "already replayed or discarded"
    say(escaped(f"{letter.letter_id} request {letter.dead.request_id or '-'}: {done}"))


def _dead_letters(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"
