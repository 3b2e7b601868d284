"""Any input from outside is either accepted or refused in the way that its reader expects."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec
from typer.main import get_command
from typer.testing import CliRunner

from write_batcher.cli import (
    app,
    bench_options,
    compare_commands,
    dead_letter_commands,
    demo_commands,
    queue_commands,
    queued_request_commands,
    running,
    signal_batcher_commands,
    worker_commands,
)
from write_batcher.config import Settings, load_settings, parse_duration
from write_batcher.errors import CodecUnavailable, ConfigurationError, InvalidEntry, WriteBatcherError
from write_batcher.models import QueueRef, ReplyAddress, WriteRequest
from write_batcher.queue.marks import decode_held_marks, decode_orders
from write_batcher.queue.record_encoding import with_hash
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec, decode_reply
from write_batcher.workers import logs
from write_batcher.workers.operating.stream_ids import LetterId
from write_batcher.workflows.awaited_write import Write
from write_batcher.workflows.inbox import Inbox

CODEC = Codec(DataConverter.default)
VALID = asyncio.run(
    CODEC.encode(
        WriteRequest(
            request_id="order-7/1",
            table="orders",
            record={"cents": 5},
            reply=ReplyAddress(workflow_id="order-7", run_id="run", attempt="try"),
            key="customer-7",
            asked_ms=1,
        )
    )
)
NAMES = [*VALID, b"first", b"counted", b"control", b"replayed", b"trace", b"sig"]
SIGNER = Signer("secret", QueueRef(namespace="default", name="orders"))
SECRET = "correct horse"  # noqa: S105

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
replies = st.dictionaries(
    st.sampled_from(["workflow_id", "run_id", "attempt", "awaits_replay", "mode", "activity_id"]),
    json_values | st.sampled_from(["signal", "completion", "none"]),
).map(lambda reply: json.dumps(reply).encode())
changed_entries = st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=64) | replies, max_size=4).map(
    lambda changes: VALID | changes
)
foreign_entries = st.dictionaries(st.binary(max_size=8), st.binary(max_size=64), max_size=8)


@given(changed_entries | foreign_entries)
def test_entry_is_decoded_or_invalid_or_held(fields: dict[bytes, bytes]) -> None:
    with contextlib.suppress(InvalidEntry, CodecUnavailable):
        request = asyncio.run(CODEC.decode(fields))
        assert request == with_hash(request)
    with contextlib.suppress(InvalidEntry):
        decode_reply(fields)


@given(changed_entries | foreign_entries)
def test_any_entry_has_a_size_an_age_and_an_order_key(fields: dict[bytes, bytes]) -> None:
    entry = StreamEntry.of("1735689600000-0", fields)
    assert entry.size_bytes >= 0
    assert isinstance(entry.request_id, bytes)
    assert isinstance(entry.order_key, bytes)
    assert 0 <= entry.first_ms <= entry.entry_ms


@given(changed_entries | foreign_entries, st.integers(0, 2**53))
def test_entry_that_nobody_signed_does_not_pass(fields: dict[bytes, bytes], now_ms: int) -> None:
    assert SIGNER.objection(fields, now_ms)


@given(payload=st.binary(max_size=256))
def test_payload_is_decoded_or_invalid_or_held(payload: bytes) -> None:
    with contextlib.suppress(InvalidEntry, CodecUnavailable):
        asyncio.run(CODEC.decode(VALID | {b"payload": payload}))


json_texts = st.sampled_from(
    [
        '{"table": "t", "record": {}}',
        '{"record":{"a":1.50,"b":[null,true,"\\u00e9\\n"]},"table":"t"}',
        '{"table": "t", "table": "u", "record": {"a": 1, "a": 2}}',
        '{"table": "t", "record": {"a": NaN}}',
        '{"table": "t", "record": {"a": 1e999}}',
        '{"table": "t", "record": {"a": "\\ud800"}}',
        '{"table": "t", "record": {"a": ' + "9" * 5000 + "}}",
        '{"table": "t", "record": {"a": ' + "[" * 3000 + "]" * 3000 + "}}",
        '{"table": "t", "record": {}, "more": 1}',
        '{"table": 5, "record": {}}',
        '{"table": "t", "record": []}',
        '{"table": "t"}',
        "null",
        "\ufeff{}",
        "",
    ]
) | st.builds(
    lambda table, record, more: json.dumps({"table": table, "record": record, **more}),
    json_values,
    json_values | st.dictionaries(st.text(max_size=4), json_values, max_size=3),
    st.just({}) | st.dictionaries(st.text(max_size=4), json_values, max_size=1),
)


class SamePayloads(PayloadCodec):
    """A payload codec that changes nothing."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)


@given(json_texts.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=20))
def test_both_ways_of_decoding_agree(data: bytes) -> None:
    payload = Payload(metadata={"encoding": b"json/plain"}, data=data)
    fields = VALID | {b"payload": payload.SerializeToString()}

    careful = Codec(DataConverter.default)
    careful._is_usual = False
    with_payload_codec = Codec(replace(DataConverter.default, payload_codec=SamePayloads()))
    assert _decoded(CODEC, fields) == _decoded(careful, fields) == _decoded(with_payload_codec, fields)


def _decoded(codec: Codec, fields: dict[bytes, bytes]) -> object:
    try:
        return asyncio.run(codec.decode(fields))
    except (InvalidEntry, CodecUnavailable) as error:
        return type(error), str(error)


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_payloads_that_only_begin_as_usual_are_decoded_alike(length: bytes, data: bytes) -> None:
    begin = Payload(metadata={"encoding": b"json/plain"}).SerializeToString() + b"\x12"
    for payload in (begin + length + data, begin + b"\xff" * 300_000):
        fields = VALID | {b"payload": payload}
        careful = Codec(DataConverter.default)
        careful._is_usual = False
        assert _decoded(CODEC, fields) == _decoded(careful, fields)


marks = json_values | st.dictionaries(st.sampled_from(["request_id", "reason", "since_ms", "order"]), json_values)


@given(st.dictionaries(st.binary(max_size=8), marks.map(lambda mark: json.dumps(mark).encode()) | st.binary()))
def test_marks_are_read_or_ignored(stored: dict[bytes, bytes]) -> None:
    assert set(decode_held_marks(stored)) <= {key.decode(errors="ignore") for key in stored}
    assert set(decode_orders(stored)) <= {key.decode(errors="ignore") for key in stored}


REQUEST = with_hash(
    WriteRequest(
        request_id="order-7",
        table="orders",
        record={},
        reply=ReplyAddress(workflow_id="order-7", run_id="run", attempt="try"),
    )
)
receipts = st.dictionaries(
    st.sampled_from(["request_id", "outcome", "queue", "record_hash", "attempt", "batch_id", "error", "write_ms"]),
    json_values | st.sampled_from(["order-7", "orders", "written", "rejected", "try", REQUEST.record_hash]),
)


@given(st.lists(json_values | receipts | st.lists(receipts, max_size=3), max_size=3))
def test_confirmation_of_any_form_does_not_raise(arguments: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("temporalio.workflow.logger", logging.getLogger("silent"))
        inbox = Inbox()
        write = Write(queue="orders", request=REQUEST)
        inbox.expect(write)
        inbox.on_confirmation(*arguments)
        assert write.receipt is None or write.receipt.request_id == "order-7"


@given(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=40))
def test_setting_is_accepted_or_refused_with_its_name(name: str, value: str) -> None:
    refusal = refusal_of(name, value)
    assert refusal is None or name in refusal or "must" in refusal  # the two that do not fit together


@given(st.sampled_from(["redis", "rediss", "http", "postgresql+psycopg", ""]), st.text(max_size=20))
def test_refused_address_does_not_show_its_password(scheme: str, rest: str) -> None:
    for name in ("redis_url", "database_url"):
        assert SECRET not in (refusal_of(name, f"{scheme}://user:{SECRET}@{rest}") or "")


def refusal_of(name: str, value: str) -> str | None:
    try:
        load_settings(**{name: value})
    except ConfigurationError as error:
        return str(error)
    return None


@given(st.text())
def test_duration_is_accepted_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text).total_seconds() >= 0


@given(st.text() | st.from_regex(r"\d{1,30}/\d{1,30}-\d{1,30}", fullmatch=True))
def test_dead_letter_id_is_accepted_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert LetterId.parse(str(LetterId.parse(text))) == LetterId.parse(text)


class CommandAccepted(Exception):
    """The command line has been accepted."""


def accept(main: Coroutine[Any, Any, Any]) -> None:
    main.close()
    raise CommandAccepted


def options_of(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every option of every command below this one that takes a value."""
    for name, below in getattr(command, "commands", {}).items():
        yield from options_of(below, (*path, name))
    for parameter in command.params if not hasattr(command, "commands") else []:
        if parameter.param_type_name == "option" and not parameter.is_flag:
            yield path, parameter.opts[0]


COMMAND_MODULES = (
    bench_options,
    compare_commands,
    dead_letter_commands,
    demo_commands,
    queue_commands,
    queued_request_commands,
    signal_batcher_commands,
    worker_commands,
)
OPTIONS = list(options_of(get_command(app.app)))
COMMANDS = sorted({path for path, _option in OPTIONS})
arguments = st.text(st.characters(exclude_characters="/\0"), max_size=20)  # no path out of this folder, and no NUL


@pytest.fixture
def _commands_do_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in COMMAND_MODULES:
        monkeypatch.setattr(module, "run_to_end", accept)
    monkeypatch.setattr(logs, "log_to_stderr", lambda _form: None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_commands_do_nothing")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(OPTIONS), arguments)
def test_option_is_accepted_or_refused(option: tuple[tuple[str, ...], str], value: str) -> None:
    path, name = option
    check_command_line(*path, name, value)


@pytest.mark.usefixtures("_commands_do_nothing")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(COMMANDS), st.lists(arguments, max_size=3))
def test_arguments_are_accepted_or_refused(path: tuple[str, ...], values: list[str]) -> None:
    check_command_line(*path, *values)


def check_command_line(*arguments: str) -> None:
    """The command line is accepted, refused with a sentence, or answered with help."""
    ended = CliRunner().invoke(app.app, arguments)
    if isinstance(ended.exception, WriteBatcherError):
        assert str(ended.exception)
    elif not isinstance(ended.exception, CommandAccepted):
        assert ended.exit_code in (0, running.EXIT_USAGE), ended.exception
        assert ended.output
