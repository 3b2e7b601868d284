import logging
import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st

from write_batcher.config import (
    as_environment,
    check_callers_outwait_batches,
    hide_password,
    load_settings,
    parse_duration,
)
from write_batcher.errors import ConfigurationError

SECRET = "s3cret"  # noqa: S105 - not a real one


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("WRITE_BATCHER_")]:
        monkeypatch.delenv(variable)


def refusal_of(**flags: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**flags)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("20s", timedelta(seconds=20)),
        ("1.5s", timedelta(seconds=1.5)),
        (" 2 m ", timedelta(minutes=2)),
        ("1h", timedelta(hours=1)),
        ("7d", timedelta(days=7)),
    ],
)
def test_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "20", "s", "-1s", "1 week", "1s 2m", "0x10s", "1e3s", "inf s"])
def test_malformed_duration_is_refused_with_its_text_and_the_cure(text: str) -> None:
    with pytest.raises(ValueError, match="such as 500ms, 20s, 2m, 1h or 7d") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


def test_defaults_are_valid() -> None:
    settings = load_settings()
    assert (settings.max_items, settings.max_wait, settings.tables) == (100, timedelta(seconds=20), ("main_writes",))


def test_environment_wins_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_BATCHER_MAX_WAIT", "500ms")
    monkeypatch.setenv("WRITE_BATCHER_MAX_BYTES", "1MiB")
    monkeypatch.setenv("WRITE_BATCHER_TABLES", "orders, payments")
    settings = load_settings()
    assert settings.max_wait == timedelta(milliseconds=500)
    assert settings.max_bytes == 1024**2
    assert settings.tables == ("orders", "payments")


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_BATCHER_MAX_ITEMS", "7")
    assert load_settings(max_items=8).max_items == 8


def test_flag_that_is_not_given_leaves_the_environment_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_BATCHER_MAX_ITEMS", "7")
    assert load_settings(max_items=None).max_items == 7


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"max_wait": "20"}, ["MAX_WAIT", "'20'", "20s"]),
        ({"max_wait": "0s"}, ["MAX_WAIT", "0s", "greater than"]),
        ({"confirm_timeout": "7d"}, ["CONFIRM_TIMEOUT", "7d", "less than or equal to"]),
        ({"heartbeat_timeout": "1s"}, ["HEARTBEAT_TIMEOUT", "1s", "greater than or equal to 2 seconds"]),
        ({"heartbeat_timeout": "1m"}, ["HEARTBEAT_TIMEOUT", "1m", "less than or equal to 30 seconds"]),
        ({"heartbeat_timeout": "3"}, ["HEARTBEAT_TIMEOUT", "'3'", "20s"]),
        ({"max_items": -1}, ["MAX_ITEMS", "-1", "greater than or equal to 1"]),
        ({"max_bytes": "-1"}, ["MAX_BYTES", "-1"]),
        ({"partitions": 0}, ["PARTITIONS", "0", "greater than or equal to 1"]),
        ({"queue": "a b"}, ["QUEUE", "a b"]),
        ({"tables": " , "}, ["TABLES", "at least 1"]),
        ({"redis_url": "127.0.0.1:6379"}, ["REDIS_URL", "127.0.0.1:6379", "write redis://HOST:PORT/DB"]),
        ({"redis_url": "http://127.0.0.1"}, ["REDIS_URL", "http://127.0.0.1", "write redis://HOST:PORT/DB"]),
        ({"redis_url": "redis://"}, ["REDIS_URL", "write redis://HOST:PORT/DB"]),
        ({"redis_url": "redis://host:99999"}, ["REDIS_URL", "99999", "write redis://HOST:PORT/DB"]),
        ({"max_bytes": "2KiB"}, ["max_request_bytes (262144)", "must not exceed max_bytes (2048)"]),
    ],
)
def test_wrong_setting_is_refused_with_its_value_and_the_cure(flags: dict[str, Any], parts: list[str]) -> None:
    refusal = refusal_of(**flags)
    assert [part for part in parts if part not in refusal] == []
    assert "\n" not in refusal


def test_wrong_variable_is_refused_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_BATCHER_MAX_WAIT", "soon")
    refusal = refusal_of()
    assert "WRITE_BATCHER_MAX_WAIT" in refusal
    assert "'soon' is not a duration" in refusal


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("WRITE_BATCHER_MAX_ITMES", "WRITE_BATCHER_MAX_ITEMS"),
        ("WRITE_BATCHER_MAXWAIT", "WRITE_BATCHER_MAX_WAIT"),
        ("WRITE_BATCHER_QUEUES", "WRITE_BATCHER_QUEUE"),
        ("WRITE_BATCHER_REDIS_URI", "WRITE_BATCHER_REDIS_URL"),
        ("WRITE_BATCHER_SINGING_KEY", "WRITE_BATCHER_SIGNING_KEY"),
    ],
)
def test_mistyped_variable_is_refused_with_the_one_that_is_meant(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "7")
    assert refusal_of() == f"There is no setting {variable}: did you mean {meant}? Correct it or remove it."


def test_unknown_variable_is_warned_of_and_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WRITE_BATCHER_COLOUR", "blue")
    load_settings()
    assert [record.message for record in caplog.records] == [
        "variable WRITE_BATCHER_COLOUR is no setting and is ignored"
    ]


def test_variables_that_kubernetes_injects_harm_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for service in ("WRITE_BATCHER", "WRITE_BATCHER_REDIS", "WRITE_BATCHER_QUEUE"):
        for name, value in {
            "SERVICE_HOST": "10.0.0.11",
            "SERVICE_PORT": "6379",
            "SERVICE_PORT_METRICS": "9000",
            "PORT": "tcp://10.0.0.11:6379",
            "PORT_6379_TCP": "tcp://10.0.0.11:6379",
            "PORT_6379_TCP_PROTO": "tcp",
            "PORT_6379_TCP_PORT": "6379",
            "PORT_6379_TCP_ADDR": "10.0.0.11",
        }.items():
            monkeypatch.setenv(f"{service}_{name}", value)
    assert load_settings() == load_settings(queue="default")
    assert caplog.text == ""


def test_application_may_set_what_does_not_concern_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with the plugin reads the same variables as the batcher, of which it uses two."""
    monkeypatch.setenv("WRITE_BATCHER_MAX_WAIT", "5m")
    monkeypatch.setenv("WRITE_BATCHER_DEDUPLICATION_WINDOW", "13m")
    assert load_settings().max_wait == timedelta(minutes=5)


@pytest.mark.parametrize(("text", "timeout"), [(None, 5), ("2s", 2), ("3s", 3), ("30s", 30)])
def test_heartbeat_timeout_is_five_seconds_or_as_given(text: str | None, timeout: int) -> None:
    settings = load_settings(heartbeat_timeout=text)
    assert settings.heartbeat_timeout == timedelta(seconds=timeout)
    assert as_environment(settings)["WRITE_BATCHER_HEARTBEAT_TIMEOUT"] == f"{timeout}s"


@pytest.mark.parametrize("key", ["", "short"])
def test_short_signing_key_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_BATCHER_SIGNING_KEY", key)
    refusal = refusal_of()
    assert f"Setting signing_key: it has {len(key)} characters, and needs 16 or more" in refusal
    assert "WRITE_BATCHER_SIGNING_KEY" in refusal
    assert "'short'" not in refusal
    assert "= short" not in refusal


def test_signing_key_reaches_child_processes_but_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    key = SECRET * 4
    monkeypatch.setenv("WRITE_BATCHER_SIGNING_KEY", key)
    settings = load_settings()
    assert as_environment(settings)["WRITE_BATCHER_SIGNING_KEY"] == key
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()} {refusal_of(max_items=0)}"


def test_environment_of_a_child_process_has_no_key_where_there_is_none() -> None:
    assert "WRITE_BATCHER_SIGNING_KEY" not in as_environment(load_settings())


def test_who_runs_callers_and_batcher_is_told_that_callers_give_up_too_early() -> None:
    check_callers_outwait_batches(load_settings())
    check_callers_outwait_batches(load_settings(max_wait="3m", confirm_by="none"))
    with pytest.raises(ConfigurationError, match=r"max_wait \(120s\) must be below confirm_timeout \(120s\)"):
        check_callers_outwait_batches(load_settings(max_wait="2m"))


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host:6379",
        f"user:{SECRET}@host:6379",
        f"redis:/:{SECRET}@host:6379",
        f"redis://:{SECRET}/x@host:6379",
        f"redis://:x/{SECRET}@host:6379",
        f"redis://:x#{SECRET}@host:6379",
        f"redis://user:{SECRET}#x@host:6379",
        f"redis://:x@{SECRET}@host:99999",
        f"redis://:{SECRET}\u2100@host:6379",
        f"redis://:{SECRET}@[::1:6379",
    ],
)
def test_refusal_of_a_redis_url_shows_no_password(url: str) -> None:
    refusal = refusal_of(redis_url=url)
    assert SECRET not in refusal
    assert "write redis://HOST:PORT/DB" in refusal


def test_refusal_of_another_setting_shows_no_database_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_BATCHER_DATABASE_URL", f"postgresql+psycopg://user:{SECRET}@host/db")
    assert SECRET not in refusal_of(max_items=0)
    assert SECRET not in refusal_of(max_bytes="2KiB")


def test_refusal_of_a_database_url_shows_no_password() -> None:
    assert SECRET not in refusal_of(database_url=[f"postgresql+psycopg://user:{SECRET}@host/db"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user@host:6379/0", "redis://user@host:6379/0"),
        ("redis://:p@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://user:p@q/r@host", "redis://user:***@host"),
        ("redis+sentinel://u:p@a:1,b:2/set/0?sentinel_password=p", "redis+sentinel://u:***@a:1,b:2/set/0?***"),
        ("sqlite+aiosqlite:///some/file.db", "sqlite+aiosqlite:///some/file.db"),
        ("redis://host/0?password=p@q", "redis://host/0?***"),
        ("redis+sentinel://host/set/0?sentinel_password=p@q", "redis+sentinel://host/set/0?***"),
        ("postgresql+psycopg://host:5432/db?password=p@q", "postgresql+psycopg://host:***"),
        ("redis://user:p?q@host:6379/0", "redis://user:***"),
    ],
)
def test_shown_url_keeps_all_but_the_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.max_items = 5


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/0?password=hunter2",
        "rediss://h/0?ssl_password=hunter2&x=1",
        "redis://u:hunter2@h/0?password=hunter2",
    ],
)
def test_password_in_the_query_of_a_url_is_hidden(url: str) -> None:
    assert "hunter2" not in hide_password(url)


noise = st.text(alphabet="ab1:/?#@&=%[,", max_size=4)
passwords = st.builds("{}{}{}".format, noise, st.just(SECRET), noise)
logins = st.just("") | st.builds("{}:{}@".format, st.sampled_from(["", "user"]), passwords)
queries = st.just("") | st.builds(
    "?{}{}={}".format, st.sampled_from(["", "db=1&", "a=b@c&"]), st.sampled_from(["password", "x"]), passwords
)


@given(
    scheme=st.sampled_from(["redis://", "rediss+sentinel://", "postgresql+psycopg://", "redis:/", "redis:"]),
    login=logins,
    address=st.sampled_from(["host", "host/0", "host:6379/0", "a:1,b:2/set/0", "[::1]:6379", ""]),
    query=queries,
)
def test_secret_in_a_login_or_an_option_never_shows(scheme: str, login: str, address: str, query: str) -> None:
    assert SECRET not in hide_password(scheme + login + address + query)


def test_database_of_a_redis_url_is_a_number() -> None:
    with pytest.raises(ConfigurationError, match="redis://HOST:PORT/DB"):
        load_settings(redis_url="redis://h/zzz")


def test_duration_that_no_timedelta_holds_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="99999999999999d' is longer than any duration"):
        load_settings(max_wait="99999999999999d")


@pytest.mark.parametrize(("queue", "task_queue"), [("default", "batcher-queue"), ("orders", "batcher-queue-orders")])
def test_each_queue_has_its_own_task_queue(queue: str, task_queue: str) -> None:
    assert load_settings(queue=queue).batcher_task_queue == task_queue
    assert load_settings(queue=queue, batcher_task_queue="mine").batcher_task_queue == "mine"
