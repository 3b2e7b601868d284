import itertools
from collections.abc import Iterable
from datetime import timedelta

from hypothesis import given, strategies as st

from write_batcher.activities.drain.batching import BatchLimits, FlushMark, OpenBatch, Taken
from write_batcher.models import FlushReason, WriteRequest
from write_batcher.queue.stream import StreamEntry


def taken(request_id: str, *, size: int = 10, number: int = 0) -> Taken:
    """A taken entry of `size` bytes."""
    return Taken(
        entry=StreamEntry(entry_id=f"{number}-0", fields={b"": b"x" * size}),
        request=WriteRequest(request_id=request_id, table="orders", record={}),
    )


def limits(*, items: int = 100, size: int = 1000) -> BatchLimits:
    return BatchLimits(max_items=items, max_bytes=size, max_wait=timedelta(seconds=20))


def ids(line: Iterable[Taken | FlushMark]) -> list[str]:
    return [item.request.request_id if isinstance(item, Taken) else "flush" for item in line]


def fill(batch: OpenBatch, read: Iterable[Taken | FlushMark]) -> FlushReason | None:
    batch.line.extend(read)
    return batch.fill()


def test_batch_below_its_limits_stays_open() -> None:
    batch = OpenBatch(limits(items=3))
    assert fill(batch, [taken("a"), taken("b")]) is None
    assert (ids(batch.items), batch.room) == (["a", "b"], 1)


def test_batch_closes_by_size_as_soon_as_it_is_full() -> None:
    batch = OpenBatch(limits(items=2))
    assert fill(batch, [taken("a"), taken("b"), taken("c")]) is FlushReason.SIZE
    assert (ids(batch.items), ids(batch.line)) == (["a", "b"], ["c"])


def test_entry_that_would_exceed_the_bytes_waits_for_the_next_batch_with_all_behind_it() -> None:
    batch = OpenBatch(limits(size=25))
    assert fill(batch, [taken("a"), taken("b"), taken("c"), taken("d", size=1)]) is FlushReason.BYTES
    assert (ids(batch.items), ids(batch.line)) == (["a", "b"], ["c", "d"])


def test_entry_larger_than_the_bytes_is_alone_in_its_batch() -> None:
    batch = OpenBatch(limits(size=25))
    assert fill(batch, [taken("huge", size=26), taken("b", size=1)]) is FlushReason.BYTES
    assert ids(batch.items) == ["huge"]


def test_repeated_request_id_is_first_in_line_for_the_next_batch() -> None:
    first = OpenBatch(limits(items=4))
    assert fill(first, [taken("a"), taken("b"), taken("a"), taken("c"), taken("d")]) is FlushReason.SIZE
    second = OpenBatch(limits(items=4), first.line)
    assert second.fill() is None
    assert (ids(first.items), ids(second.items)) == (["a", "b", "c"], ["a", "d"])


def test_repeated_request_ids_are_back_in_line_when_the_batch_closes_from_outside() -> None:
    batch = OpenBatch(limits())
    fill(batch, [taken("a"), taken("a"), taken("a")])
    assert batch.close(FlushReason.WAIT) is FlushReason.WAIT
    assert (ids(batch.items), ids(batch.line)) == (["a"], ["a", "a"])


def test_flush_mark_closes_what_came_before_it() -> None:
    batch = OpenBatch(limits())
    assert fill(batch, [taken("a"), FlushMark(), taken("b")]) is FlushReason.FLUSH
    assert (ids(batch.items), ids(batch.line)) == (["a"], ["b"])


def test_flush_mark_that_meets_an_empty_batch_closes_nothing() -> None:
    batch = OpenBatch(limits())
    assert fill(batch, [FlushMark(), FlushMark()]) is None
    assert not batch.line


Arrivals = list[list[tuple[str, int] | None]]  # reads of (request id, bytes); None: a flush mark
reads = st.lists(st.none() | st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 60)), max_size=12)


def batches_of(arrivals: list[list[Taken | FlushMark]], limits: BatchLimits) -> list[list[Taken]]:
    """What a drain does: fill from the line, then from one read after the other, and close the rest at the end."""
    closed: list[list[Taken]] = []
    batch = OpenBatch(limits)
    for read in [*arrivals, []]:
        reason = fill(batch, read)
        while reason is not None:
            closed.append(batch.items)
            batch = OpenBatch(limits, batch.line)
            reason = batch.fill()
    while batch.items:
        batch.close(FlushReason.STOP)
        closed.append(batch.items)
        batch = OpenBatch(limits, batch.line)
        batch.fill()
    return closed


@given(st.lists(reads, max_size=12), st.integers(1, 6), st.integers(20, 120))
def test_batches_keep_every_entry_once_within_their_limits(arrivals: Arrivals, items: int, size: int) -> None:
    numbers = itertools.count()
    line = [
        [FlushMark() if entry is None else taken(entry[0], size=entry[1], number=next(numbers)) for entry in read]
        for read in arrivals
    ]
    everything = [item for read in line for item in read if isinstance(item, Taken)]

    batches = batches_of(line, limits(items=items, size=size))

    written = [item for batch in batches for item in batch]
    assert sorted(written, key=position) == everything
    for batch in batches:
        assert 1 <= len(batch) <= items
        assert len(batch) == 1 or sum(item.entry.size_bytes for item in batch) <= size
        assert len(set(ids(batch))) == len(batch)
        assert sorted(batch, key=position) == batch
    for request_id in set(ids(everything)):
        same = [item for item in written if item.request.request_id == request_id]
        assert sorted(same, key=position) == same


def position(item: Taken) -> int:
    return item.entry.entry_ms


@given(st.permutations([*"abcdefgh"]), st.integers(1, 6), st.integers(10, 120))
def test_different_request_ids_keep_their_order_over_all_batches(order: list[str], items: int, size: int) -> None:
    batches = batches_of([[taken(request_id) for request_id in order]], limits(items=items, size=size))
    assert [request_id for batch in batches for request_id in ids(batch)] == order
