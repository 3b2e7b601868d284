"""The scripts of dead letters. `integration/queue/test_scripts.py` runs the suite on real servers."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from tests.support.partitions import (
    all_entries,
    append,
    appended,
    as_written,
    dead_letters,
    die,
    fields,
    ids_of,
    queue_ref,
    reply_of,
    state_of,
    take,
)
from write_batcher.queue import dead_letters as dead_letters_module
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.stream import MAX_DEAD_REASON_BYTES, WriteQueue
from write_batcher.queue.stream_entry import StreamEntry

DAY = timedelta(days=1)
CALLER, OTHER_CALLER = reply_of("one"), reply_of("other")


class DeadLetterScripts:
    @pytest.fixture
    def queue(self, redis: Redis, name: str) -> WriteQueue:
        return WriteQueue(redis, queue_ref(name), 0, reader=redis)

    @pytest.fixture
    def letters(self, redis: Redis, name: str) -> DeadLetters:
        return DeadLetters(redis, queue_ref(name), 0)

    async def taken(self, queue: WriteQueue, *request_ids: str, reply: bytes = b"") -> list[StreamEntry]:
        for request_id in request_ids:
            await append(queue, request_id, reply=reply)
        return await take(queue)

    async def test_dead_letter_keeps_every_field_the_reason_and_the_entry_id(
        self, queue: WriteQueue, letters: DeadLetters
    ) -> None:
        await append(queue, "a", b"\x00\xff")
        [entry] = await take(queue)
        await die(queue, entry, reason="no such table")
        [letter] = await letters.page()
        assert (letter.fields, letter.reason, letter.entry_id) == (entry.fields, "no such table", entry.entry_id)
        assert await letters.get(letter.dead_id) == letter
        assert await letters.last_id() == letter.dead_id

    async def test_dead_lettered_entry_leaves_neither_entry_nor_marker(self, redis: Redis, queue: WriteQueue) -> None:
        [entry] = await self.taken(queue, "a")
        await die(queue, entry)
        assert await state_of(queue) == (0, 0, 1)
        assert not await redis.exists(queue.live_key)

    async def test_entry_is_dead_lettered_once(self, queue: WriteQueue) -> None:
        [entry] = await self.taken(queue, "a")
        await die(queue, entry)
        await die(queue, entry)
        assert (await queue.statistics()).dead == 1

    async def test_reason_may_be_long_and_not_valid_unicode(self, redis: Redis, queue: WriteQueue) -> None:
        first, second = await self.taken(queue, "a", "b")
        await die(queue, first, reason="no table \ud800")
        await die(queue, second, reason="x" * 100_000)
        one, other = await dead_letters(redis, queue)
        assert one[b"dead-reason"] == b"no table \\ud800"
        assert len(other[b"dead-reason"]) == MAX_DEAD_REASON_BYTES

    async def test_dead_letter_keeps_at_most_3500_fields(self, redis: Redis, queue: WriteQueue) -> None:
        many = {str(number).encode(): b"x" for number in range(10_000)}
        await redis.xadd(queue.stream_key, many)  # type: ignore[arg-type] # its dict is invariant
        [entry] = await take(queue)
        await die(queue, entry, reason="nonsense")
        [kept] = await dead_letters(redis, queue)
        assert len(kept) == 3_502
        assert (await queue.statistics()).backlog == 0

    async def test_huge_entry_is_kept_whole_although_the_drain_read_only_its_short_fields(
        self, redis: Redis, name: str, letters: DeadLetters
    ) -> None:
        queue = WriteQueue(redis, queue_ref(name), 0, reader=redis, largest_entry=1_000)
        await append(queue, "huge", b"x" * 50_000)
        [entry] = await take(queue)
        assert b"payload" not in entry.fields
        await die(queue, entry, reason="too large")
        [letter] = await letters.page()
        assert (letter.request_id, len(letter.fields[b"payload"])) == ("huge", 50_000)

    async def test_page_has_of_a_huge_letter_only_the_short_fields(
        self, queue: WriteQueue, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dead_letters_module, "PAGE_BYTES", 20_000)
        for request_id in ("a", "b", "c"):
            await append(queue, request_id, b"x" * 50_000)
        for entry in await take(queue):
            await die(queue, entry)
        [first] = await letters.page()
        assert (b"payload" in first.fields, first.size_bytes > 50_000) == (False, True)
        whole = await letters.get(first.dead_id)
        assert whole is not None
        assert len(whole.fields[b"payload"]) == 50_000
        [second] = await letters.page(after=first.dead_id)
        assert second.request_id == "b"

    async def test_oldest_letters_beyond_the_maximum_are_deleted_and_counted(
        self, redis: Redis, queue: WriteQueue, letters: DeadLetters
    ) -> None:
        for entry in await self.taken(queue, "a", "b", "c", "d"):
            await queue.dead_letter(entry, "rejected", "no", max_letters=2)
        kept = await letters.page()
        assert [letter.request_id for letter in kept] == ["c", "d"]
        assert (await queue.statistics()).counters == {"appended": 4, "rejected": 4, "dead_trimmed": 2}
        assert await redis.hvals(queue.dead_ids_key) == [letter.dead_id.encode() for letter in kept]

    async def test_lowered_maximum_is_reached_step_by_step(self, queue: WriteQueue, letters: DeadLetters) -> None:
        *many, one, another = await self.taken(queue, *(str(number) for number in range(152)))
        for entry in many:
            await die(queue, entry)
        await queue.dead_letter(one, "rejected", "no", max_letters=10)
        assert (await queue.statistics()).dead == 51
        await queue.dead_letter(another, "rejected", "no", max_letters=10)
        assert (await queue.statistics()).dead == 10

    async def test_letters_are_deleted_after_their_retention_and_counted(
        self, redis: Redis, queue: WriteQueue, letters: DeadLetters
    ) -> None:
        two_days_ago = await queue.now_ms() - 2 * DAY // timedelta(milliseconds=1)
        for number in range(150):  # more than are deleted at once
            await redis.xadd(queue.dead_key, {b"dead-reason": b"x"}, id=f"{two_days_ago}-{number + 1}")
        [entry] = await self.taken(queue, "a")
        await die(queue, entry)
        assert await queue.trim_dead_letters(retention=3 * DAY) == 0
        assert await queue.trim_dead_letters(retention=1000 * 365 * DAY) == 0
        assert await queue.trim_dead_letters(retention=DAY) == 150
        assert [letter.request_id for letter in await letters.page()] == ["a"]
        assert (await queue.statistics()).counters["dead_trimmed"] == 150

    async def test_replayed_request_keeps_its_first_time_and_is_marked(
        self, queue: WriteQueue, letters: DeadLetters
    ) -> None:
        [entry] = await self.taken(queue, "a")
        for _ in range(2):
            await die(queue, entry)
            [letter] = await letters.page()
            added = await letters.replay(letter)
            [again] = await take(queue, after=entry.entry_id)
            assert again.entry_id == added
            assert again.fields.items() >= {**fields("a"), b"replayed": b"1"}.items()
            assert again.first_ms == entry.first_ms
            entry = again
        assert await letters.page() == []
        await queue.acknowledge(as_written([entry]))
        assert (await queue.statistics()).counters == {"appended": 3, "rejected": 2, "written": 1}

    async def test_replayed_request_is_not_appended_again(self, queue: WriteQueue, letters: DeadLetters) -> None:
        await die(queue, *await self.taken(queue, "a"))
        [letter] = await letters.page()
        added = await letters.replay(letter)
        assert await appended(queue, "a") == added
        assert await letters.queued_again(letter) is not None

    async def test_letter_is_replayed_or_discarded_once(self, queue: WriteQueue, letters: DeadLetters) -> None:
        for entry in await self.taken(queue, "a", "b"):
            await die(queue, entry)
        first, second = await letters.page()
        assert await letters.replay(first)
        assert await letters.replay(first) is None
        assert await letters.discard(second)
        assert not await letters.discard(second)
        assert ids_of(await all_entries(queue)) == ["a"]

    async def test_request_that_is_a_dead_letter_can_stay_one(self, queue: WriteQueue) -> None:
        await die(queue, *await self.taken(queue, "a", reply=b"caller"))
        assert (await append(queue, "a", reply=b"caller", unless_dead=True)).dead
        assert not (await append(queue, "a", reply=b"another", unless_dead=True)).dead
        assert not (await append(queue, "a", reply=b"caller")).dead

    @pytest.mark.parametrize("gone", ["discarded", "trimmed", "lost by Redis"])
    async def test_request_whose_dead_letter_is_gone_is_appended(
        self, redis: Redis, queue: WriteQueue, letters: DeadLetters, gone: str
    ) -> None:
        await die(queue, *await self.taken(queue, "a"))
        [letter] = await letters.page()
        match gone:
            case "discarded":
                await letters.discard(letter)
            case "trimmed":
                await queue.trim_dead_letters(retention=timedelta(0))
            case _:
                await redis.delete(queue.dead_key)
        result = await append(queue, "a", unless_dead=True)
        assert (result.dead, result.entry_id is not None) == (False, True)

    async def test_letters_of_callers_that_wait_for_one_request_id_stay_one_each(self, queue: WriteQueue) -> None:
        for caller in (CALLER, OTHER_CALLER):
            await append(queue, "a", reply=caller)
        await die(queue, *await take(queue))
        for _ in range(3):
            for caller in (CALLER, OTHER_CALLER):
                assert (await append(queue, "a", reply=caller, unless_dead=True)).dead
                assert await state_of(queue) == (0, 0, 2)

    @pytest.mark.parametrize("gone", ["replayed", "discarded", "trimmed", "lost by Redis"])
    async def test_caller_whose_dead_letter_is_gone_is_appended_again_and_nobody_else(
        self, redis: Redis, queue: WriteQueue, letters: DeadLetters, gone: str
    ) -> None:
        for caller in (CALLER, OTHER_CALLER):
            await append(queue, "a", reply=caller)
        await die(queue, *await take(queue))
        letter, other = await letters.page()
        match gone:
            case "replayed":
                await letters.replay(letter)
                await queue.acknowledge(as_written(await all_entries(queue)))
            case "discarded":
                await letters.discard(letter)
            case "trimmed":
                [newer] = await self.taken(queue, "newer")
                await queue.dead_letter(newer, "rejected", "no", max_letters=2)
            case _:
                await redis.xdel(queue.dead_key, letter.dead_id)
        for _ in range(3):
            assert not (await append(queue, "a", reply=CALLER, unless_dead=True)).dead
            assert (await append(queue, "a", reply=OTHER_CALLER, unless_dead=True)).dead
            assert ids_of(await all_entries(queue)) == ["a"]
        await die(queue, *await all_entries(queue))
        present = {one.dead_id.encode() for one in await letters.page()}
        assert set(await redis.hvals(queue.dead_ids_key)) == present >= {other.dead_id.encode()}

    async def test_discarding_an_old_letter_keeps_the_marker_of_a_newer_one(
        self, queue: WriteQueue, letters: DeadLetters
    ) -> None:
        for _ in range(2):
            await die(queue, *await self.taken(queue, "a", reply=CALLER))
        first, _ = await letters.page()
        await letters.discard(first)
        assert (await append(queue, "a", reply=CALLER, unless_dead=True)).dead

    async def test_letter_is_queued_again_when_any_run_of_its_caller_is(
        self, queue: WriteQueue, letters: DeadLetters
    ) -> None:
        await die(queue, *await self.taken(queue, "a", reply=CALLER))
        [letter] = await letters.page()
        await append(queue, "a", reply=OTHER_CALLER)
        await append(queue, "other", reply=CALLER)
        assert await letters.queued_again(letter) is None
        later = reply_of("one", run_id="later")
        await append(queue, "a", reply=later)
        await append(queue, "a", reply=OTHER_CALLER)
        queued = await letters.queued_again(letter)
        assert queued is not None
        assert queued[b"reply"] == later

    async def test_marker_of_a_letter_is_small_and_goes_with_it_whatever_a_foreign_reply_is(
        self, redis: Redis, queue: WriteQueue, letters: DeadLetters
    ) -> None:
        for reply in (b"x" * 100_000, b"[" * 5_000, b"\xff\x00", b'{"workflow_id": "\\ud800", "attempt": ""}', b""):
            await redis.xadd(queue.stream_key, fields("a", reply=reply))  # type: ignore[arg-type] # invariant
        await die(queue, *await take(queue))
        names: list[bytes] = await redis.hkeys(queue.dead_ids_key)  # type: ignore[assignment] # redis-py
        assert max(map(len, names)) < 10_000
        for letter in await letters.page():
            await letters.discard(letter)
        assert not await redis.exists(queue.dead_ids_key)


class TestFakeRedis(DeadLetterScripts):
    @pytest.fixture
    async def redis(self) -> AsyncIterator[Redis]:
        async with FakeAsyncRedis(protocol=2) as client:
            yield client
