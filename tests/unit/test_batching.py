import itertools
from collections.abc import Iterable
from datetime import timedelta

from hypothesis import given, strategies as st

from write_batcher.activities.drain.batching import BatchLimits, OpenBatch
from write_batcher.activities.drain.items import DecodedEntry, FlushMark, HeldEntry, Item
from write_batcher.models import FlushReason, WriteRequest
from write_batcher.queue.stream_entry import StreamEntry


def entry(request_id: str, *, size: int = 10, number: int = 0, key: str = "") -> DecodedEntry:
    """An entry of `size` bytes."""
    fields = {b"id": request_id.encode(), b"key": (key or request_id).encode()}
    return DecodedEntry(
        entry=StreamEntry(entry_id=f"{number}-0", fields=fields, size_bytes=size),
        request=WriteRequest(request_id=request_id, table="orders", record={}),
    )


def limits(*, items: int = 100, size: int = 1000) -> BatchLimits:
    return BatchLimits(
        max_items=items,
        max_bytes=size,
        max_wait=timedelta(seconds=20),
        max_request_bytes=1_000,
        max_dead_letters=100,
        dead_letter_retention=timedelta(days=30),
    )


def ids(items: Iterable[Item | FlushMark]) -> list[str]:
    return ["flush" if isinstance(item, FlushMark) else item.entry.request_id.decode() for item in items]


def fill(batch: OpenBatch, read: Iterable[Item | FlushMark]) -> FlushReason | None:
    batch.waiting.extend(read)
    return batch.fill()


def test_batch_below_its_limits_stays_open() -> None:
    batch = OpenBatch(limits(items=3))
    assert fill(batch, [entry("a"), entry("b")]) is None
    assert (ids(batch.items), batch.room) == (["a", "b"], 1)


def test_batch_closes_by_size_as_soon_as_it_is_full() -> None:
    batch = OpenBatch(limits(items=2))
    assert fill(batch, [entry("a"), entry("b"), entry("c")]) is FlushReason.SIZE
    assert (ids(batch.items), ids(batch.waiting)) == (["a", "b"], ["c"])


def test_entry_that_would_exceed_the_bytes_waits_with_all_behind_it() -> None:
    batch = OpenBatch(limits(size=25))
    assert fill(batch, [entry("a"), entry("b"), entry("c"), entry("d", size=1)]) is FlushReason.BYTES
    assert (ids(batch.items), ids(batch.waiting)) == (["a", "b"], ["c", "d"])


def test_entry_larger_than_the_bytes_is_alone_in_its_batch() -> None:
    batch = OpenBatch(limits(size=25))
    assert fill(batch, [entry("huge", size=26), entry("b", size=1)]) is FlushReason.BYTES
    assert ids(batch.items) == ["huge"]


def test_batch_that_has_all_its_bytes_waits_for_no_more() -> None:
    batch = OpenBatch(limits(size=20))
    assert fill(batch, [entry("a"), entry("b")]) is FlushReason.BYTES


def test_repeated_request_id_comes_first_in_the_next_batch() -> None:
    first = OpenBatch(limits(items=4))
    assert fill(first, [entry("a"), entry("b"), entry("a"), entry("c"), entry("d")]) is FlushReason.SIZE
    second = OpenBatch(limits(items=4), first.waiting)
    assert second.fill() is None
    assert (ids(first.items), ids(second.items)) == (["a", "b", "c"], ["a", "d"])


def test_repeated_request_ids_wait_again_when_the_batch_is_closed() -> None:
    batch = OpenBatch(limits())
    fill(batch, [entry("a"), entry("a"), entry("a")])
    assert batch.close(FlushReason.WAIT) is FlushReason.WAIT
    assert (ids(batch.items), ids(batch.waiting)) == (["a"], ["a", "a"])


def test_what_has_the_key_of_a_repeated_request_id_waits_behind_it() -> None:
    batch = OpenBatch(limits())
    fill(batch, [entry("a", key="k"), entry("a", key="k"), entry("b", key="k"), entry("c")])
    batch.close(FlushReason.WAIT)
    assert (ids(batch.items), ids(batch.waiting)) == (["a", "c"], ["a", "b"])


def test_flush_closes_also_what_was_postponed_before_it() -> None:
    first = OpenBatch(limits())
    assert fill(first, [entry("a"), entry("a"), FlushMark(), entry("b")]) is FlushReason.FLUSH
    second = OpenBatch(limits(), first.waiting)
    assert second.fill() is FlushReason.FLUSH
    assert (ids(first.items), ids(second.items), ids(second.waiting)) == (["a"], ["a"], ["b"])


def test_held_entry_takes_its_place_but_no_bytes() -> None:
    batch = OpenBatch(limits(size=25))
    held = HeldEntry(entry=entry("held", size=1_000).entry)
    assert fill(batch, [entry("a"), held, entry("b")]) is None
    assert (ids(batch.items), batch.room_bytes) == (["a", "held", "b"], 5)


def test_flush_mark_closes_what_came_before_it() -> None:
    batch = OpenBatch(limits())
    assert fill(batch, [entry("a"), FlushMark(), entry("b")]) is FlushReason.FLUSH
    assert (ids(batch.items), ids(batch.waiting)) == (["a"], ["b"])


def test_flush_mark_does_not_close_an_empty_batch() -> None:
    batch = OpenBatch(limits())
    assert fill(batch, [FlushMark(), FlushMark()]) is None
    assert not batch.waiting


Arrivals = list[list[tuple[str, int] | None]]  # reads of (request id, bytes); None: a flush mark
reads = st.lists(st.none() | st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 60)), max_size=12)


def batches_of(arrivals: list[list[DecodedEntry | FlushMark]], limits: BatchLimits) -> list[list[Item]]:
    """Like a drain: fill from what waits, then from one read after another, and close the rest at the end."""
    closed: list[list[Item]] = []
    batch = OpenBatch(limits)
    for read in [*arrivals, []]:
        reason = fill(batch, read)
        while reason is not None:
            closed.append(list(batch.items))
            batch = OpenBatch(limits, batch.waiting)
            reason = batch.fill()
    while batch.items:
        batch.close(FlushReason.STOP)
        closed.append(list(batch.items))
        batch = OpenBatch(limits, batch.waiting)
        batch.fill()
    return closed


@given(st.lists(reads, max_size=12), st.integers(1, 6), st.integers(20, 120))
def test_every_entry_is_in_one_batch_within_the_limits(arrivals: Arrivals, items: int, size: int) -> None:
    numbers = itertools.count()
    entries = [
        [FlushMark() if one is None else entry(one[0], size=one[1], number=next(numbers)) for one in read]
        for read in arrivals
    ]
    everything = [item for read in entries for item in read if isinstance(item, DecodedEntry)]

    batches = batches_of(entries, limits(items=items, size=size))

    written = [item for batch in batches for item in batch]
    assert sorted(written, key=position) == everything
    for batch in batches:
        assert 1 <= len(batch) <= items
        assert len(batch) == 1 or sum(item.entry.size_bytes for item in batch) <= size
        assert len(set(ids(batch))) == len(batch)
        assert sorted(batch, key=position) == batch
    for request_id in set(ids(everything)):
        same = [item for item in written if item.entry.request_id == request_id.encode()]
        assert sorted(same, key=position) == same


def position(item: Item) -> int:
    return item.entry.entry_ms


@given(st.permutations([*"abcdefgh"]), st.integers(1, 6), st.integers(10, 120))
def test_different_request_ids_keep_their_order_across_batches(order: list[str], items: int, size: int) -> None:
    batches = batches_of([[entry(request_id) for request_id in order]], limits(items=items, size=size))
    assert [request_id for batch in batches for request_id in ids(batch)] == order
