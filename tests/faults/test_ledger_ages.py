"""The ledger grows old: no batcher forgets a request as long as an entry may ask for its outcome."""

from datetime import timedelta

import pytest

from tests.faults.conftest import OpenArena
from tests.faults.fault_arena import Arena, Worker
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import Outcome

SHORT_WINDOW = timedelta(minutes=13)


@pytest.mark.parametrize("days", [6, 8, 14])
async def test_id_submitted_again_is_written_once_as_long_as_an_entry_of_its_window_may_wait(
    open_arena: OpenArena, sqlite_target: Database, days: int
) -> None:
    """Submitted again within seven days, an entry may wait for another seven while its partition is paused."""
    async with open_arena(sqlite_target) as arena:
        batcher = await _start_workers(arena)
        assert await _write(arena) is Outcome.WRITTEN
        await batcher.stop()
        sqlite_target.age_ledger(days)
        await _until_pruned(await arena.start_worker("batcher"))
        assert await _write(arena) is Outcome.DUPLICATE


async def test_batcher_of_another_queue_with_a_shorter_window_forgets_no_row_before_its_time(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with (
        open_arena(sqlite_target) as arena,
        open_arena(sqlite_target, queue="another", deduplication_window=SHORT_WINDOW) as other,
    ):
        await _start_workers(arena)
        assert await _write(arena) is Outcome.WRITTEN
        sqlite_target.age_ledger(10)  # older than any row of the other queue becomes
        await _until_pruned(await other.start_worker("batcher"))
        assert await _write(arena) is Outcome.DUPLICATE


async def _start_workers(arena: Arena) -> Worker:
    """Start a callers' worker, whose workflows all give the same request id, and a batcher, which is returned."""
    await arena.start_worker("main", "--request-id", f"{arena.name}-0/order/1")
    batcher = await arena.start_worker("batcher")
    await arena.until_batcher_ready()
    await _until_pruned(batcher)
    return batcher


async def _write(arena: Arena) -> Outcome:
    """Have a caller write the same record under the same request id as before, and audit it."""
    arena.handles.clear()
    arena.started = 0
    [caller] = await arena.start_callers(1)
    return (await arena.audit(counters=False)).results[caller.id].outcome


async def _until_pruned(batcher: Worker) -> None:
    await eventually(lambda: batcher.logged(" from the ledger"), within_s=60)
