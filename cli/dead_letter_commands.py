"""The commands of an operator who decides on dead letters: `write-batcher dead-letters ...`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from write_batcher.cli.console import make_console, one_line, say
from write_batcher.cli.options import with_settings
from write_batcher.cli.running import EXIT_FAILED, run_to_end
from write_batcher.config import Settings
from write_batcher.errors import OperationFailed

if TYPE_CHECKING:
    from write_batcher.workers.operating.letters import Letter, QueueLetters, Selection

dead_letters_app = typer.Typer(help="Decide on the entries that nobody could write.", no_args_is_help=True)

EachAsJson = Annotated[bool, typer.Option("--json", help="One line of JSON for each instead.")]
LetterName = Annotated[str | None, typer.Argument(metavar="ID", help="One, as `list` shows it.", show_default=False)]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="All that have TEXT in their reason.")]
All = Annotated[bool, typer.Option("--all", help="All of the queue.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]


@dead_letters_app.command("list")
@with_settings("redis_url", "queue")
def list_command(*, settings: Settings, as_json: EachAsJson = False) -> None:
    """Id, age, request id, table and reason of each: a table on a terminal, columns between tabs elsewhere."""
    from write_batcher.cli.dead_letter_view import letter_json, letter_line, print_letters
    from write_batcher.workers.operating.letters import Selection

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
    *, settings: Settings, letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]
) -> None:
    """All of one, its record included."""
    from write_batcher.cli.dead_letter_view import print_letter
    from write_batcher.workers.operating.letters import Selection

    selection = Selection.parse(letter_id, None, everything=False)

    async def show() -> None:
        async with _letters(settings) as letters:
            async for letter in _some(letters, selection):
                print_letter(make_console(), letter)

    run_to_end(show())


@dead_letters_app.command("replay")
@with_settings("redis_url", "database_url", "tables", "queue")
def replay_command(
    *,
    settings: Settings,
    letter_id: LetterName = None,
    reason: Reason = None,
    everything: All = False,
    dry_run: DryRun = False,
) -> None:
    """Put requests back under their own ids, once the cause is repaired. Callers that still wait are answered."""
    from write_batcher.sinks.sql.sink import SqlSink
    from write_batcher.workers.operating.letters import Selection

    selection = Selection.parse(letter_id, reason, everything)

    async def replay() -> None:
        async with AsyncExitStack() as stack:
            letters = await stack.enter_async_context(_letters(settings))
            if dry_run:
                await _say_what_would_be(letters, selection, "replayed")
                return
            # Its tables are looked up although only the ledger is needed: another database than that of the batcher
            # has no rejection to forget, and all would be dead again.
            sink = await stack.enter_async_context(SqlSink.open(settings.database_url, tables=settings.tables))
            done = 0
            async for letter in _some(letters, selection):
                entry_id = await letters.replay(letter, sink)
                done += entry_id is not None
                _say_done(letter, "replayed" if entry_id else None)
            say(f"{_dead_letters(done)} replayed")

    run_to_end(replay())


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
    """Delete them for good. A caller that still waits is told that its record will not be written."""
    from write_batcher.activities.drain.deliver import ReceiptSender
    from write_batcher.activities.drain.watch import Watch
    from write_batcher.workers.connections import connect_temporal
    from write_batcher.workers.operating.letters import Selection, Told

    selection = Selection.parse(letter_id, reason, everything)

    async def discard() -> bool:
        async with _letters(settings) as letters:
            if dry_run:
                await _say_what_would_be(letters, selection, "discarded")
                return True
            sender = ReceiptSender(await connect_temporal(), Watch())
            done, untold = 0, 0
            async for letter in _some(letters, selection):
                told = await letters.discard(letter, sender)
                done += told is not None
                _say_done(letter, f"discarded, {told.value}" if told else None)
                if told is Told.FAILED and letter.reply:
                    untold += 1
                    say(f"  if workflow {letter.reply.workflow_id} still waits, cancel it: then it learns the outcome")
            say(f"{_dead_letters(done)} discarded")
            return untold == 0

    if not run_to_end(discard()):
        raise typer.Exit(EXIT_FAILED)


@asynccontextmanager
async def _letters(settings: Settings) -> AsyncIterator["QueueLetters"]:
    from write_batcher.workers.connections import connect_redis
    from write_batcher.workers.operating.letters import QueueLetters

    async with await connect_redis(settings) as redis:
        yield QueueLetters(redis, settings.queue)


async def _some(letters: "QueueLetters", selection: "Selection") -> AsyncIterator["Letter"]:
    """Those that are selected. Raises OperationFailed at the end when there was none."""
    found = False
    async for letter in letters.select(selection):
        found = True
        yield letter
    if not found:
        raise OperationFailed(f"there is no {selection}; `write-batcher dead-letters list` shows what there is")


async def _say_what_would_be(letters: "QueueLetters", selection: "Selection", done: str) -> None:
    number = 0
    async for letter in _some(letters, selection):
        number += 1
        _say_done(letter, f"would be {done}: {letter.dead.reason}")
    say(f"{_dead_letters(number)} would be {done}; nothing has been changed")


def _say_done(letter: "Letter", done: str | None) -> None:
    done = done or "gone, somebody else was faster"
    say(one_line(f"{letter.letter_id} request {letter.dead.request_id or '-'}: {done}"))


def _dead_letters(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"
