"""Records and entries that cannot be written: each fails its own caller, and no other."""

from typing import Any

import pytest

from tests.faults.conftest import OpenArena
from tests.support.target_databases import Database, PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy

GOOD = 8  # ten or more that are all refused alike are held, because their table is taken to be at fault
HUNDRED = 100
HUGE_BYTES = 64 * 1024 * 1024


@pytest.mark.fast
async def test_bad_record_fails_only_its_own_caller(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(GOOD)
        await arena.start_callers(1, cents=-1)
        await arena.until_queued(GOOD + 1)
        await arena.resume()
        outcomes = await arena.audit()
        assert (outcomes.completed, outcomes.failure_types) == (GOOD, {"WriteRejected": 1})
        assert (await arena.queue.statistics()).dead == 1


async def test_batch_of_bad_records_fails_only_its_own_callers(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(5, cents=-1)
        await arena.until_queued(5)
        await arena.resume()
        await eventually(lambda: arena.has_dead_letters(5), within_s=60)
        await arena.start_callers(GOOD)
        outcomes = await arena.audit()
        assert (outcomes.completed, outcomes.failure_types) == (GOOD, {"WriteRejected": 5})


async def test_one_bad_record_among_a_hundred_fails_only_its_own_caller(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy
) -> None:
    async with open_arena(target, confirm_by=confirm_by, max_items=HUNDRED) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(HUNDRED - 1)
        await arena.start_callers(1, cents=-1)
        await arena.until_queued(HUNDRED)
        await arena.resume()
        outcomes = await arena.audit()
        assert (outcomes.completed, outcomes.failure_types) == (HUNDRED - 1, {"WriteRejected": 1})
        assert {result.batch_size for result in outcomes.results.values()} == {HUNDRED}
        assert await arena.has_dead_letters(1)


async def test_records_all_refused_alike_are_held_until_their_table_is_repaired(
    open_arena: OpenArena, postgres_target: PostgresDatabase
) -> None:
    async with open_arena(postgres_target, max_items=HUNDRED) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(HUNDRED, cents=-1)
        await arena.until_queued(HUNDRED)
        await arena.resume()
        await eventually(lambda: arena.has_held(HUNDRED), within_s=60)
        reasons = {mark.reason for mark in (await arena.queue.held()).values()}
        assert any("refused alike" in reason for reason in reasons), reasons
        assert await arena.backlog() == HUNDRED
        assert await arena.has_dead_letters(0)
        postgres_target.execute("ALTER TABLE main_writes DROP CONSTRAINT cents_not_negative")
        assert (await arena.audit()).completed == HUNDRED


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("nul \0 in it", "WriteRejected"),
        ("lone \ud800 surrogate", "WriteNotSubmitted"),  # no JSON either
    ],
)
async def test_text_that_no_database_stores_fails_only_its_own_caller(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, text: str, failure: str
) -> None:
    async with open_arena(target, confirm_by=confirm_by) as arena:
        await arena.start_workers()
        await arena.start_callers(GOOD)
        await arena.start_callers(1, item=text)
        outcomes = await arena.audit()
        assert (outcomes.completed, outcomes.failure_types) == (GOOD, {failure: 1})


async def test_record_that_kills_its_worker_is_isolated_and_dead_lettered(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_worker("main")
        await arena.start_worker("batcher", "--die-of-item", "poison")
        await arena.until_batcher_ready()
        await arena.start_callers(GOOD)
        await arena.start_callers(1, item="poison")

        async def restarted_until_dead_lettered() -> bool:
            if not arena.workers[-1].alive:
                await arena.start_worker("batcher", "--die-of-item", "poison")
            return await arena.has_dead_letters(1)

        await eventually(restarted_until_dead_lettered, within_s=240)
        outcomes = await arena.audit()
        assert (outcomes.completed, outcomes.failure_types) == (GOOD, {"WriteRejected": 1})


@pytest.mark.fast
async def test_garbage_in_the_stream_is_dead_lettered_and_delays_no_caller(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    garbage: list[dict[Any, Any]] = [
        {b"\xff": b"\xfe"},
        {b"v": b"two", b"id": b"x", b"reply": b"", b"payload": b""},
        {b"v": b"1", b"id": b"x"},
        {b"v": b"1", b"id": b"\xff", b"reply": b"{", b"payload": b"\xff\xff"},
        {b"v": b"1", b"id": b"x" * 600, b"reply": b"null", b"payload": b""},
    ]
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        for entry in garbage:
            await arena.redis.xadd(arena.queue.stream_key, entry)
        await arena.start_callers(GOOD)
        assert (await arena.audit()).completed == GOOD
        assert await arena.has_dead_letters(len(garbage))


async def test_entry_of_another_version_is_held_until_an_operator_rejects_it(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        entry: dict[Any, Any] = {b"v": b"2", b"id": b"x", b"reply": b"", b"payload": b""}
        added: Any = await arena.redis.xadd(arena.queue.stream_key, entry)
        await arena.start_callers(GOOD)
        assert (await arena.outcomes()).completed == GOOD
        assert await arena.has_held(1)
        name = f"0/{added.decode()}"
        status, output, _ = await arena.command("queue", "list", "--held")
        assert (status, output.startswith(f"{name}\t"), "version 2" in output) == (0, True, True)
        status, _, errors = await arena.command("queue", "reject", name)
        assert status == 0, errors
        await arena.audit()
        assert await arena.has_dead_letters(1)


async def test_foreign_entry_of_64_mib_is_dead_lettered_and_delays_no_caller(
    open_arena: OpenArena, sqlite_target: Database
) -> None:
    async with open_arena(sqlite_target) as arena:
        await arena.start_workers()
        await arena.pause()
        await arena.start_callers(GOOD // 2)
        await arena.until_queued(GOOD // 2)
        huge: dict[Any, Any] = {b"v": b"1", b"id": b"huge", b"reply": b"", b"payload": b"\xff" * HUGE_BYTES}
        await arena.redis.xadd(arena.queue.stream_key, huge)
        await arena.start_callers(GOOD - GOOD // 2)
        await arena.until_queued(GOOD + 1)
        await arena.resume()
        assert (await arena.audit()).completed == GOOD
        assert await arena.has_dead_letters(1)
        await arena.redis.delete(arena.queue.dead_key)  # other tests use this server's memory too


async def test_request_that_is_too_large_is_refused_at_once(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target, max_request_bytes=2_000) as arena:
        await arena.start_workers()
        await arena.start_callers(GOOD)
        await arena.start_callers(1, item="x" * 3_000)
        outcomes = await arena.audit()
        assert (outcomes.completed, outcomes.failure_types) == (GOOD, {"WriteNotSubmitted": 1})
