"""What a signal batcher remembers and decides, and which requests it accepts."""

import contextlib
import io
import json
from dataclasses import asdict
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st
from rich.console import Console, RenderableType
from temporalio.converter import DataConverter

from write_batcher.cli.signal_batcher_view import batchers_json, live_batchers, print_batchers, runs_followed
from write_batcher.compare.signal_batcher.batcher_limits import (
    MAX_BATCH_BYTES,
    MAX_IDLE_RUNS,
    BatcherLimits,
    is_run_full,
    retry_delay_s,
)
from write_batcher.compare.signal_batcher.batcher_monitor import BatcherView
from write_batcher.compare.signal_batcher.batcher_state import QueuedWrite, UnsentConfirmation
from write_batcher.compare.signal_batcher.pending_writes import PendingWrites, WrittenRequests
from write_batcher.compare.signal_batcher.roles import limits_of
from write_batcher.compare.signal_batcher.wire import (
    BatcherStats,
    Confirmation,
    SignalledWrite,
    Status,
    batcher_id,
    batcher_of,
)
from write_batcher.config import load_settings
from write_batcher.errors import ConfigurationError
from write_batcher.models import FlushReason

LIMITS = BatcherLimits(max_items=3, max_wait_s=20, signals_per_run=100)
REQUEST: dict[str, Any] = {
    "workflow_id": "caller",
    "data": {"order_id": 1},
    "requesting_workflow": "caller",
    "request_id": "caller/run",
    "submitted_at": "2026-01-31T12:00:00+00:00",
    "attempt": 1,
}
CONFIRMATION: dict[str, Any] = {"status": "success", "count": 3, "batch_id": "b-1", "batch_size": 3}


def queued(request_id: str, *, received_s: float = 0.0, size: int = 10, attempt: int = 1) -> QueuedWrite:
    request = SignalledWrite.parse(REQUEST | {"request_id": request_id, "attempt": attempt})
    return QueuedWrite(request=request, received_s=received_s, size_bytes=size)


def ids(batch: list[QueuedWrite]) -> list[str]:
    return [one.request.request_id for one in batch]


def test_request_with_the_fields_of_the_original_is_taken_unchanged() -> None:
    assert asdict(SignalledWrite.parse(REQUEST)) == REQUEST


def test_request_may_have_more_fields_and_lack_the_optional_ones() -> None:
    bare = {name: REQUEST[name] for name in ("workflow_id", "data", "requesting_workflow", "request_id")}
    request = SignalledWrite.parse(bare | {"priority": "high"})
    assert (request.submitted_at, request.attempt) == ("", 1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": None}, "data is missing"),
        ({"data": [1]}, "data is list, not an object"),
        ({"request_id": 5}, "request_id is int, not a string"),
        ({"request_id": ""}, "request_id is empty"),
        ({"request_id": "x" * 1101}, "more than 1100 bytes"),
        ({"workflow_id": None}, "workflow_id is missing"),
        ({"requesting_workflow": None}, "requesting_workflow is missing"),
        ({"requesting_workflow": "ä" * 501}, "more than 1000 bytes"),
        ({"requesting_workflow": "\udc80"}, "surrogates not allowed"),
        ({"attempt": "1"}, "attempt is str"),
        ({"attempt": True}, "attempt is bool"),
    ],
)
def test_malformed_request_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SignalledWrite.parse(REQUEST | changes)


json_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([1]), st.just({"a": [{}]})
)
fields = st.dictionaries(st.sampled_from([*REQUEST, *CONFIRMATION]), json_values)


@given(json_values | fields, fields)
def test_any_argument_is_parsed_or_refused_with_a_value_error(value: Any, changes: Any) -> None:
    for kind, good in ((SignalledWrite, REQUEST), (Confirmation, CONFIRMATION)):
        for argument in (value, good | changes):
            with contextlib.suppress(ValueError):
                kind.parse(argument)


@pytest.mark.parametrize(("levels", "is_taken"), [(100, True), (101, False), (400, False)])
def test_record_nested_too_deeply_to_pass_on_is_refused(levels: int, is_taken: bool) -> None:
    data: dict[str, Any] = {}
    for _ in range(levels - 1):
        data = {"in": data}
    if is_taken:
        assert SignalledWrite.parse(REQUEST | {"data": data}).data == data
    else:
        with pytest.raises(ValueError, match="deeper than 100"):
            SignalledWrite.parse(REQUEST | {"data": data})


def test_attempt_key_differs_by_attempt_and_time_only() -> None:
    variants: list[dict[str, Any]] = [{}, {"data": {}}, {"attempt": 2}, {"submitted_at": "later"}]
    keys = [SignalledWrite.parse(REQUEST | changes).attempt_key for changes in variants]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("submitted_at", "milliseconds"),
    [("1970-01-01T00:00:01+00:00", 1000), ("1970-01-01T00:00:01", 1000), ("noon", None), ("", None), (17, None)],
)
def test_time_of_submission_is_known_if_it_is_an_iso_time(submitted_at: Any, milliseconds: int | None) -> None:
    assert SignalledWrite.parse(REQUEST | {"submitted_at": submitted_at}).submitted_ms == milliseconds


@pytest.mark.parametrize(
    "changes",
    [{}, {"data": {"note": "\u2603" * 500}}, {"requesting_workflow": "\u2603" * 300}, {"request_id": "x" * 1100}],
)
def test_size_of_a_request_is_an_upper_bound_of_its_encoded_size(changes: dict[str, Any]) -> None:
    request = SignalledWrite.parse(REQUEST | changes)
    one = QueuedWrite(request=request, received_s=1769860800.123456, size_bytes=request.size_bytes)
    [payload] = DataConverter.default.payload_converter.to_payloads([one])
    assert len(payload.data) <= one.size_bytes <= len(payload.data) + 100


@pytest.mark.parametrize("text", ["", "x" * 300, "\u2603" * 300])
def test_size_of_a_confirmation_is_an_upper_bound_of_its_encoded_size(text: str) -> None:
    confirmation = Confirmation(
        status=Status.SUCCESS, count=1_000, batch_id=text, batch_size=1_000, request_id=text, error=text or None
    )
    one = UnsentConfirmation(caller=text, confirmation=confirmation)
    [payload] = DataConverter.default.payload_converter.to_payloads([one])
    assert len(payload.data) <= one.size_bytes <= len(payload.data) + 100


def test_confirmation_with_the_fields_of_the_original_is_understood() -> None:
    assert Confirmation.parse(CONFIRMATION) == Confirmation(
        status=Status.SUCCESS, count=3, batch_id="b-1", batch_size=3
    )


@pytest.mark.parametrize("changes", [{"status": "ok"}, {"status": ["success"]}, {"count": "3"}, {"batch_size": None}])
def test_malformed_confirmation_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"status|Status|count"):
        Confirmation.parse(CONFIRMATION | changes)


def test_batchers_have_the_original_names_prefixed_by_another_queue() -> None:
    assert [batcher_id("default", number) for number in range(3)] == [
        "batcher-main",
        "batcher-main-1",
        "batcher-main-2",
    ]
    assert [batcher_id("shop", number) for number in range(2)] == ["shop/batcher-main", "shop/batcher-main-1"]


def test_key_goes_to_the_same_batcher_everywhere() -> None:
    assert batcher_of("anything", queue="default", batchers=1) == "batcher-main"
    assert batcher_of("customer-42", queue="default", batchers=7) == f"batcher-main-{0x49FDA815 % 7}"


def test_no_batch_is_due_without_pending_writes() -> None:
    assert PendingWrites().closes_in_s(LIMITS, 5.0) is None


def test_batch_closes_when_it_is_full_or_its_oldest_request_is_old_enough() -> None:
    pending = PendingWrites([queued("a", received_s=100.0), queued("b", received_s=110.0)])
    assert pending.closes_in_s(LIMITS, 105.0) == 15.0
    assert pending.closes_in_s(LIMITS, 125.0) == 0.0
    pending.append(queued("c", received_s=111.0))
    assert pending.closes_in_s(LIMITS, 111.0) == 0.0


def test_batch_never_exceeds_its_items_and_the_rest_waits_in_order() -> None:
    pending = PendingWrites(map(queued, "abcde"))
    assert pending.take(LIMITS)[0] is FlushReason.SIZE
    assert ids(pending.oldest_first()) == ["d", "e"]
    reason, batch = pending.take(LIMITS)
    assert (reason, ids(batch), len(pending), pending.size_bytes) == (FlushReason.WAIT, ["d", "e"], 0, 0)


def test_batch_never_exceeds_the_bytes_of_an_activity_input() -> None:
    large = MAX_BATCH_BYTES // 2
    pending = PendingWrites([queued("a", size=large), queued("b", size=large), queued("c", size=1)])
    assert pending.closes_in_s(LIMITS, 0.0) == 0.0
    reason, batch = pending.take(LIMITS)
    assert (reason, ids(batch)) == (FlushReason.BYTES, ["a", "b"])


def test_repeated_id_is_left_out_of_the_batch_and_first_in_the_next() -> None:
    pending = PendingWrites([queued("a"), queued("a", attempt=2), queued("b"), queued("c"), queued("d")])
    assert ids(pending.take(LIMITS)[1]) == ["a", "b", "c"]
    assert ids(pending.take(LIMITS)[1]) == ["a", "d"]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 700_000)), max_size=40), st.integers(1, 6))
def test_batches_keep_every_request_once_within_their_limits(arrivals: list[tuple[str, int]], items: int) -> None:
    limits = BatcherLimits(max_items=items)
    everything = [queued(name, size=size, attempt=number) for number, (name, size) in enumerate(arrivals)]
    pending = PendingWrites(everything)
    written: list[QueuedWrite] = []
    while len(pending):
        _, batch = pending.take(limits)
        assert 1 <= len(batch) <= items
        assert len(batch) == 1 or sum(one.size_bytes for one in batch) <= MAX_BATCH_BYTES
        assert len(set(ids(batch))) == len(batch)
        written += batch
    assert sorted(written, key=lambda one: one.request.attempt) == everything
    assert pending.size_bytes == 0
    for name in set(ids(everything)):
        attempts = [one.request.attempt for one in written if one.request.request_id == name]
        assert attempts == sorted(attempts)


def test_newest_pending_write_can_be_dropped() -> None:
    pending = PendingWrites([queued("a", size=10), queued("b", size=7)])
    assert pending.drop_newest() == queued("b", size=7)
    assert (ids(pending.oldest_first()), pending.size_bytes) == (["a"], 10)


def test_written_ids_are_bounded_and_the_oldest_is_forgotten_first() -> None:
    written = WrittenRequests(capacity=2)
    for request_id in ("a", "b", "a", "c"):
        written.add(queued(request_id).request)
    assert ["a" in written, "b" in written, "c" in written] == [True, False, True]
    assert len(written) == 2


def test_repeated_signal_is_recognized_but_not_a_new_attempt() -> None:
    written = WrittenRequests()
    written.add(queued("a").request)
    assert written.has_answered(queued("a").request)
    assert not written.has_answered(queued("a", attempt=2).request)


def test_newest_ids_that_fit_are_handed_over_in_their_order() -> None:
    written = WrittenRequests()
    for request_id in ("a", "ä" * 100, "c", "d"):
        written.add(queued(request_id).request)
    carried = written.newest(300)
    assert list(carried) == ["c", "d"]
    assert len(json.dumps(written.newest(2_000))) <= 2_000
    assert WrittenRequests(carried).has_answered(queued("d").request)


def test_run_is_full_when_temporal_says_so_or_signals_reach_the_limit() -> None:
    assert not is_run_full(suggested=False, signals=99, limits=LIMITS, idle_runs=0)
    assert is_run_full(suggested=False, signals=100, limits=LIMITS, idle_runs=0)
    assert is_run_full(suggested=True, signals=0, limits=LIMITS, idle_runs=MAX_IDLE_RUNS - 1)


def test_run_is_not_full_after_too_many_idle_runs_in_a_row() -> None:
    assert not is_run_full(suggested=True, signals=0, limits=LIMITS, idle_runs=MAX_IDLE_RUNS)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_items": 0},
        {"max_items": 1_001},
        {"max_wait_s": 0},
        {"max_wait_s": float("inf")},
        {"max_wait_s": float("nan")},
        {"signals_per_run": 10_000},
        {"confirmations_at_once": 2_001},
        {"write_attempts": 0},
    ],
)
def test_limits_beyond_those_of_temporal_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(changes))} = "):
        BatcherLimits(**changes)


def test_retry_delay_doubles_up_to_a_limit_with_jitter() -> None:
    for attempt, longest_s in ((1, 1), (2, 2), (4, 8), (5, 15), (1_000, 15)):
        assert [retry_delay_s(attempt, jitter) for jitter in (0.0, 0.5, 1.0)] == [
            longest_s / 2,
            longest_s * 0.75,
            longest_s,
        ]


STATS = BatcherStats(
    pending_writes=3,
    processed_batches=17,
    session_signals_received=250,
    processed_request_ids_count=240,
    continue_as_new_cycle=2,
    batch_size_limit=100,
    is_continue_suggested=True,
)
VIEWS = [
    BatcherView(batcher="batcher-main", state="running", run_id="new", previous_run_id="old", stats=STATS),
    BatcherView(batcher="batcher-main-1", state="not running", problem="there is none\x1b[2J"),
]


def shown(what: RenderableType) -> str:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    screen.print(what)
    return cast(io.StringIO, screen.file).getvalue()


def test_monitor_prints_lines_that_begin_with_the_batcher_in_a_pipe() -> None:
    screen = Console(file=io.StringIO(), force_terminal=False, soft_wrap=True)
    print_batchers(screen, VIEWS)
    lines = cast(io.StringIO, screen.file).getvalue().splitlines()
    assert lines[:2] == ["batcher-main has a new run: new, before old", "warning: there is none\\x1b[2J"]
    assert {
        "batcher-main pending requests: 3",
        "batcher-main processed batches: 17",
        "batcher-main signals of this run: 250",
        "batcher-main remembered request ids: 240",
        "batcher-main continue-as-new cycle: 2",
        "batcher-main new run suggested: yes",
        "batcher-main-1 pending requests: -",
    } < set(lines)


def test_live_view_shows_changes_of_runs_and_its_problem() -> None:
    text = shown(live_batchers(VIEWS, list(runs_followed(VIEWS)), "Temporal cannot be asked"))
    for part in ("batcher-main has a new run: new, before old", "Temporal cannot be asked", "there is none\\x1b[2J"):
        assert part in text
    row = next(row for row in text.splitlines() if "continue-as-new cycle" in row)
    assert row.split() == ["continue-as-new", "cycle", "2", "-"]


def test_json_of_the_monitor_has_the_field_names_of_the_query() -> None:
    first, second = json.loads(batchers_json(VIEWS))["batchers"]
    assert {name: first[name] for name in asdict(STATS)} == asdict(STATS)
    assert (first["run_id"], first["previous_run_id"], second["pending_writes"]) == ("new", "old", None)


def test_settings_that_temporal_could_not_carry_are_refused() -> None:
    assert limits_of(load_settings(max_items=50, max_wait="2s")) == BatcherLimits(max_items=50, max_wait_s=2.0)
    with pytest.raises(
        ConfigurationError, match=r"max_items = 1001: a batcher workflow can have 1 to 1000.*--max-items"
    ):
        limits_of(load_settings(max_items=1001))
    with pytest.raises(ConfigurationError, match=r"max_wait = 90000s: .*86400s at most.*--max-wait"):
        limits_of(load_settings(max_wait="25h", confirm_timeout="26h"))
