"""The hold pen against a simple model: a list for each key, of which only the beginning is tried."""

from collections import defaultdict

from hypothesis import given, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from write_batcher.activities.drain import hold
from write_batcher.activities.drain.hold import Pen
from write_batcher.activities.drain.items import HeldEntry
from write_batcher.queue.stream_entry import StreamEntry

PATIENCE_S = hold.BACKOFF.longest + hold.TICK_S


def held(number: int, key: str, *, size: int = 10, **about: object) -> HeldEntry:
    fields = {b"id": f"id-{number}".encode(), b"key": key.encode()}
    entry = StreamEntry(entry_id=f"{number}-0", fields=fields, size_bytes=size)
    return HeldEntry(entry=entry, **about)  # type: ignore[arg-type] # as the test says


class ClockedPen(Pen):
    def __init__(self) -> None:
        self.now = 1_000.0
        self.rings = 0
        super().__init__(lambda: self.now, self._count)

    def _count(self) -> None:
        self.rings += 1

    def tries(self, *, count: int = 100, max_bytes: int = 10_000) -> list[HeldEntry]:
        return self.take_due(count=count, max_bytes=max_bytes)


def test_entry_is_due_at_once_and_after_each_failure_later() -> None:
    pen = ClockedPen()
    one = held(1, "k")
    pen.add(one)
    waits = []
    for _ in range(9):
        assert pen.tries() == [one]
        pen.failed(one, "locked")
        pen.end_try(b"k")
        assert pen.tries() == []
        due = pen.next_due()
        assert due is not None
        waits.append(due - pen.now)
        pen.now = due
    assert waits == [1, 2, 4, 8, 15, 15, 15, 15, 15]


def test_entries_that_fail_within_a_tick_are_due_together() -> None:
    pen = ClockedPen()
    first, second = held(1, "k", failures=1), held(2, "l", failures=1)
    pen.now += 0.1
    pen.add(first)
    pen.now += 0.2
    pen.add(second)
    assert first.due == second.due


def test_try_that_ran_into_a_timeout_is_made_again_much_later() -> None:
    pen = ClockedPen()
    one = held(1, "k")
    pen.add(one)
    pen.tries()
    pen.failed(one, "statement timeout", seconds=30.0)
    pen.end_try(b"k")
    assert (pen.next_due() or 0) - pen.now == 600.0


def test_entry_that_is_refused_during_its_try_is_due_when_the_try_ends() -> None:
    pen = ClockedPen()
    one = held(1, "k")
    pen.add(one)
    pen.tries()
    pen.refuse(one, "an operator says so")
    pen.failed(one, "locked", seconds=30.0)
    pen.end_try(b"k")
    assert pen.tries() == [one]


def test_followers_that_nobody_has_tried_are_tried_together() -> None:
    pen = ClockedPen()
    first, *others = entries = [held(number, "k") for number in range(4)]
    for one in entries:
        pen.add(one)
    pen.failed(first, "locked")
    pen.now += PATIENCE_S
    assert pen.tries() == [first]
    pen.remove(first)
    pen.end_try(b"k")
    assert pen.tries(count=2) == others[:2]


def test_tries_of_a_line_are_bounded_in_bytes_and_in_equal_ids() -> None:
    pen = ClockedPen()
    pen.add(held(1, "k", size=60))
    pen.add(held(2, "k", size=60))
    assert len(pen.tries(max_bytes=100)) == 1
    pen.add(held(3, "l"))
    pen.add(held(3, "l"))  # the same request id
    assert len(pen.tries()) == 1


def test_entry_that_must_be_written_alone_is_tried_alone() -> None:
    pen = ClockedPen()
    suspect, other = held(1, "k", alone=True), held(2, "k")
    pen.add(suspect)
    pen.add(other)
    assert pen.tries() == [suspect]


def test_refused_entry_overtakes_those_with_its_key() -> None:
    pen = ClockedPen()
    first, second = held(1, "k", failures=5), held(2, "k")
    pen.add(first)
    pen.add(second)
    assert pen.tries() == []
    pen.refuse(second, "rejected by an operator")
    assert pen.tries() == [second]


def test_refusal_that_cannot_be_made_now_leaves_the_first_of_its_key_its_tries() -> None:
    pen = ClockedPen()
    first, second = held(1, "k"), held(2, "k")
    pen.add(first)
    pen.add(second)
    pen.refuse(second, "rejected by an operator")
    assert pen.tries() == [second]
    pen.failed(second, "Redis is away")
    pen.end_try(b"k")
    assert pen.tries() == [first]
    pen.failed(first, "locked")
    pen.end_try(b"k")
    assert pen.tries() == []


def test_release_during_a_try_is_carried_out_by_the_next_one() -> None:
    pen = ClockedPen()
    one = held(1, "k")
    pen.add(one)
    pen.tries()
    pen.release(one)  # what was repaired may have been repaired after this try began
    pen.failed(one, "locked")
    assert pen.end_try(b"k") == []
    assert pen.tries() == [one]
    assert pen.end_try(b"k") == [one]


def test_pen_is_full_by_entries_or_bytes() -> None:
    pen = ClockedPen()
    big = held(1, "k", size=hold.MAX_HELD_BYTES)
    pen.add(big)
    assert pen.is_full
    pen.remove(big)
    assert not pen.is_full


def test_thousands_behind_one_entry_cost_little() -> None:
    pen = ClockedPen()
    for number in range(20_000):
        pen.add(held(number, "k", failures=int(number == 0)))
    assert pen.rings == 1
    assert pen.next_due() == pen.now + 1.0


@given(st.data())
def test_key_blocks_until_its_last_entry_is_gone(data: st.DataObject) -> None:
    pen = ClockedPen()
    entries = [held(number, "k") for number in range(data.draw(st.integers(1, 5)))]
    for one in entries:
        pen.add(one)
    for one in data.draw(st.permutations(entries)):
        assert pen.blocks(b"k")
        pen.remove(one)
    assert not pen.blocks(b"k")
    assert (len(pen), pen.tries()) == (0, [])


class PenMachine(RuleBasedStateMachine):
    """Adds, tries and decides in any order."""

    tries = Bundle("tries")

    def __init__(self) -> None:
        super().__init__()
        self.pen = ClockedPen()
        self.lines: dict[bytes, list[HeldEntry]] = defaultdict(list)
        self.trying: set[bytes] = set()
        self.number = 0

    @rule(key=st.sampled_from("kl"), failures=st.integers(0, 2), alone=st.booleans())
    def add(self, key: str, failures: int, alone: bool) -> None:
        self.number += 1
        one = held(self.number, key, failures=failures, alone=alone)
        self.pen.add(one)
        self.lines[key.encode()].append(one)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, PATIENCE_S]))
    def wait(self, seconds: float) -> None:
        self.pen.now += seconds

    @rule(target=tries, count=st.integers(1, 3))
    def begin_try(self, count: int) -> list[HeldEntry]:
        chosen = self.pen.tries(count=count)
        if not chosen:
            return []
        key = chosen[0].entry.order_key
        line = self.lines[key]
        assert key not in self.trying
        assert len(chosen) <= count
        if chosen[0].refused:
            assert chosen == [one for one in line if one.refused and one in chosen]
        else:
            assert chosen == line[: len(chosen)]
            assert len(chosen) == 1 or not any(one.failures or one.alone for one in chosen)
        self.trying.add(key)
        return chosen

    @rule(chosen=consumes(tries), decided=st.integers(0, 3), distrusted=st.booleans())
    def end_try(self, chosen: list[HeldEntry], decided: int, distrusted: bool) -> None:
        if not chosen:
            return
        key = chosen[0].entry.order_key
        for one in chosen[:decided]:
            self.pen.remove(one)
            self.lines[key].remove(one)
        for one in chosen[decided:]:
            if distrusted:
                self.pen.distrust(one, "failed")
            else:
                self.pen.failed(one, "locked")
        self.pen.end_try(key)
        self.trying.discard(key)

    @precondition(lambda self: any(self.lines.values()))
    @rule(data=st.data(), refuse=st.booleans())
    def order(self, data: st.DataObject, refuse: bool) -> None:
        one = data.draw(st.sampled_from([one for line in self.lines.values() for one in line]))
        if refuse:
            self.pen.refuse(one, "rejected")
        else:
            self.pen.release(one)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        entries = [one for line in self.lines.values() for one in line]
        assert sorted(map(id, self.pen)) == sorted(map(id, entries))
        for key, line in self.lines.items():
            assert self.pen.blocks(key) == bool(line or key in self.trying)
            for one in line:
                assert self.pen.is_first(one) is (one is line[0])

    @invariant()
    def will_try_every_line_again(self) -> None:
        waiting = [line for key, line in self.lines.items() if line and key not in self.trying]
        due = self.pen.next_due()
        assert not waiting or (due is not None and due <= self.pen.now + PATIENCE_S)


TestPen = PenMachine.TestCase
