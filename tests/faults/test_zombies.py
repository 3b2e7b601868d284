"""Two drains of one partition at once: a process that froze, or whose event loop did, comes back after its time."""

import signal

from tests.databases import Database
from tests.faults.conftest import OpenArena
from tests.support import eventually
from write_batcher.models import ConfirmBy

CALLERS = 12


async def test_batcher_that_was_frozen_and_replaced_does_no_harm_when_it_thaws(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        _, frozen = await arena.run_both()
        await arena.start(CALLERS)
        await arena.written()
        frozen.send(signal.SIGSTOP)
        successor = await arena.run("batcher")
        await arena.start(CALLERS)
        await eventually(lambda: successor.says("starts"), within_s=60)
        await arena.written(2 * CALLERS)
        frozen.send(signal.SIGCONT)
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == 3 * CALLERS


async def test_batcher_whose_event_loop_is_blocked_goes_on_afterwards(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run_both("--block-s", "6")
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == CALLERS


async def test_drain_whose_heartbeat_dies_ends_and_is_started_again(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.run_both("--kill-heartbeat")
        await arena.start(CALLERS)
        assert (await arena.audit()).completed == CALLERS
        assert batcher.log.read_text().count("drain of") >= 2
