"""Records and entries that nobody can write: each fails its own caller, and nobody else."""

from typing import Any

import pytest

from tests.faults.conftest import OpenArena
from tests.support.target_databases import Database, PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy

GOOD = 8  # with one bad record fewer than the ten alike for which the table would be taken to be at fault
HUNDRED = 100
HUGE_BYTES = 64 * 1024 * 1024


async def test_bad_record_of_a_batch_fails_its_caller_alone(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run_both()
        await arena.pause()
        await arena.start(GOOD)
        await arena.start(1, cents=-1)
        await arena.queued(GOOD + 1)
        await arena.resume()
        told = await arena.audit()
        assert (told.completed, told.kinds) == (GOOD, {"WriteRejected": 1})
        assert (await arena.queue.statistics()).dead == 1


async def test_batch_of_bad_records_fails_all_its_callers_and_nobody_after_them(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.pause()
        await arena.start(5, cents=-1)  # from ten alike on, the table would be taken to be at fault
        await arena.queued(5)
        await arena.resume()
        await eventually(lambda: arena.dead_letters(5), within_s=60)
        await arena.start(GOOD)
        told = await arena.audit()
        assert (told.completed, told.kinds) == (GOOD, {"WriteRejected": 5})


async def test_one_bad_record_among_a_hundred_fails_alone(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by, max_items=HUNDRED) as arena:
        await arena.run_both()
        await arena.pause()
        await arena.start(HUNDRED - 1)
        await arena.start(1, cents=-1)
        await arena.queued(HUNDRED)
        await arena.resume()
        told = await arena.audit()
        assert (told.completed, told.kinds) == (HUNDRED - 1, {"WriteRejected": 1})
        assert {result.batch_size for result in told.results.values()} == {HUNDRED}
        assert await arena.dead_letters(1)


async def test_hundred_records_that_are_refused_alike_are_held_until_their_table_is_repaired(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target, max_items=HUNDRED) as arena:
        _, batcher = await arena.run_both()
        await arena.pause()
        await arena.start(HUNDRED, cents=-1)
        await arena.queued(HUNDRED)
        await arena.resume()
        await eventually(lambda: batcher.says(f"All {HUNDRED} records of a batch are refused alike"), within_s=60)
        assert batcher.says("is held")
        assert await arena.backlog() == HUNDRED
        assert await arena.dead_letters(0)
        postgres_target.execute("ALTER TABLE main_writes DROP CONSTRAINT cents_not_negative")
        assert (await arena.audit()).completed == HUNDRED


@pytest.mark.parametrize("text", ["nul \0 in it", "lone \ud800 surrogate"])
async def test_text_that_no_database_holds_fails_its_caller_alone(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, text: str
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.run_both()
        await arena.start(GOOD)
        await arena.start(1, item=text)
        told = await arena.audit()
        assert (told.completed, told.kinds) == (GOOD, {"WriteRejected": 1})


async def test_record_that_kills_the_process_is_isolated_and_dies_alone(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run("main")
        await arena.run("batcher", "--die-of-item", "poison")
        await arena.batcher_ready()
        await arena.start(GOOD)
        await arena.start(1, item="poison")

        async def restarted_until_it_is_dead() -> bool:
            if not arena.workers[-1].alive:
                await arena.run("batcher", "--die-of-item", "poison")
            return await arena.dead_letters(1)

        await eventually(restarted_until_it_is_dead, within_s=240)
        told = await arena.audit()
        assert (told.completed, told.kinds) == (GOOD, {"WriteRejected": 1})


async def test_garbage_in_the_stream_is_set_aside_and_holds_up_nobody(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    garbage: list[dict[Any, Any]] = [
        {b"\xff": b"\xfe"},
        {b"v": b"2", b"id": b"x", b"reply": b"", b"payload": b""},
        {b"v": b"1", b"id": b"x"},
        {b"v": b"1", b"id": b"\xff", b"reply": b"{", b"payload": b"\xff\xff"},
        {b"v": b"1", b"id": b"x" * 600, b"reply": b"null", b"payload": b""},
    ]
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        for entry in garbage:
            await arena.redis.xadd(arena.queue.stream_key, entry)
        await arena.start(GOOD)
        assert (await arena.audit()).completed == GOOD
        assert await arena.dead_letters(len(garbage))


async def test_foreign_entry_of_64_mib_is_set_aside_and_holds_up_nobody(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.run_both()
        await arena.pause()
        await arena.start(GOOD // 2)
        await arena.queued(GOOD // 2)
        huge: dict[Any, Any] = {b"v": b"1", b"id": b"huge", b"reply": b"", b"payload": b"\xff" * HUGE_BYTES}
        await arena.redis.xadd(arena.queue.stream_key, huge)
        await arena.start(GOOD - GOOD // 2)
        await arena.queued(GOOD + 1)
        await arena.resume()
        assert (await arena.audit()).completed == GOOD
        assert await arena.dead_letters(1)
        await arena.redis.delete(arena.queue.dead_key)  # other tests use this server too


async def test_request_that_is_too_large_is_refused_at_once(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target, max_request_bytes=2_000) as arena:
        await arena.run_both()
        await arena.start(GOOD)
        await arena.start(1, item="x" * 3_000)
        told = await arena.audit()
        assert (told.completed, told.kinds) == (GOOD, {"WriteNotSubmitted": 1})
