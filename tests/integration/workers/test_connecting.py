"""Connecting to Temporal and Redis: what the errors say, and what is warned of."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis, RedisCluster

from tests.support.redis_kinds import AnyRedis
from write_batcher.config import load_settings
from write_batcher.errors import ConfigurationError
from write_batcher.models import QueueRef
from write_batcher.queue import redis_client
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers import connections
from write_batcher.workers.connections import connect_redis, connect_temporal, temporal_namespace
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import choose_ports
from write_batcher.workers.embedded.temporal_server import TemporalServer

REFUSAL_TIMEOUT_S = 60


@pytest.fixture
def free_port() -> int:
    return choose_ports({"nobody": None})["nobody"]


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A server that accepts connections and never answers."""

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def refusal_of_temporal() -> str:
    async with asyncio.timeout(REFUSAL_TIMEOUT_S):
        with pytest.raises(ConfigurationError) as refusal:
            await connect_temporal()
    return str(refusal.value)


async def refusal_of_redis(url: str) -> str:
    async with asyncio.timeout(REFUSAL_TIMEOUT_S):
        with pytest.raises(ConfigurationError) as refusal:
            await connect_redis(load_settings(redis_url=url))
    return str(refusal.value)


async def test_connecting_to_an_absent_temporal_names_its_address(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{free_port}")
    message = await refusal_of_temporal()
    assert f"Temporal at 127.0.0.1:{free_port} cannot be reached" in message
    assert "start it (`write-batcher up`) or set TEMPORAL_ADDRESS" in message
    assert "\n" not in message


async def test_connecting_gives_up_on_a_silent_temporal(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", timedelta(milliseconds=500))
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{silent_port}")
    message = await refusal_of_temporal()
    assert f"Temporal at 127.0.0.1:{silent_port} cannot be reached" in message
    assert "no answer" in message


async def test_connecting_names_a_namespace_that_does_not_exist(
    temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "nowhere")
    assert await refusal_of_temporal() == (
        f"Temporal at {temporal_server.address} has no namespace 'nowhere': create it or set TEMPORAL_NAMESPACE."
    )


def test_namespace_is_that_of_the_temporal_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "temporal.toml"
    profile.write_text('[profile.default]\nnamespace = "staging"\n', "utf-8")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "none.toml"))
    assert temporal_namespace() == "default"
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(profile))
    assert temporal_namespace() == "staging"
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "production")
    assert temporal_namespace() == "production"


async def test_connecting_names_a_temporal_profile_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporal.toml").write_text('[profile.default]\napi_key = "s3cret\n', "utf-8")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    message = await refusal_of_temporal()
    assert "The Temporal profile cannot be read" in message
    assert "line 2" in message
    assert "s3cret" not in message
    assert "\n" not in message


async def test_connecting_to_an_absent_redis_names_its_address(free_port: int) -> None:
    message = await refusal_of_redis(f"redis://127.0.0.1:{free_port}/0")
    assert f"Redis at redis://127.0.0.1:{free_port}/0 cannot be used" in message
    assert "start it (`write-batcher up`) or set WRITE_BATCHER_REDIS_URL" in message
    assert "\n" not in message


async def test_connecting_gives_up_on_a_silent_redis(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_client, "COMMAND_TIMEOUT", timedelta(milliseconds=500))
    url = f"redis://127.0.0.1:{silent_port}/0"
    assert f"Redis at {url} cannot be used" in await refusal_of_redis(url)


async def test_connecting_with_a_wrong_password_does_not_show_it(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, password="right") as server:  # noqa: S106
        message = await refusal_of_redis(f"redis://:wrong-password@127.0.0.1:{server.port}/0")
    assert f"Redis at redis://:***@127.0.0.1:{server.port}/0 cannot be used" in message
    assert "WRITE_BATCHER_REDIS_URL" in message
    assert "wrong-password" not in message


@pytest.mark.parametrize(
    ("extra", "warning"),
    [
        (["--appendonly", "no"], "Redis has appendonly no and loses queued writes when it restarts"),
        (["--maxmemory-policy", "allkeys-lru"], "Redis has maxmemory-policy allkeys-lru and may evict queued writes"),
        (["--rename-command", "CONFIG", ""], "cannot check whether Redis keeps its data"),
    ],
)
async def test_connecting_warns_of_a_redis_that_loses_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, extra: list[str], warning: str
) -> None:
    async with RedisServer(tmp_path, extra=extra) as server, await connect_redis(load_settings(redis_url=server.url)):
        pass
    assert warning in caplog.text


async def test_connecting_warns_of_a_redis_whose_configuration_cannot_be_read(
    redis_server: AnyRedis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer_nothing(*_: object, **__: object) -> dict[str, str]:
        return {}  # as Redis Enterprise does

    monkeypatch.setattr(Redis, "config_get", answer_nothing)
    monkeypatch.setattr(RedisCluster, "config_get", answer_nothing)
    async with await connect_redis(load_settings(redis_url=redis_server.url)):
        pass
    assert "cannot check whether Redis keeps its data" in caplog.text
    assert "loses queued writes" not in caplog.text


async def test_connecting_with_an_option_that_cannot_be_chosen_names_it(redis_server: AnyRedis) -> None:
    mark = "&" if "?" in redis_server.url else "?"
    message = await refusal_of_redis(f"{redis_server.url}{mark}protocol=3")
    assert "option protocol=3 cannot be chosen, write-batcher sets it itself: remove it" in message
    assert "WRITE_BATCHER_REDIS_URL" in message


async def test_connecting_to_a_durable_redis_warns_of_nothing(
    redis_server: AnyRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with await connect_redis(load_settings(redis_url=redis_server.url)):
        pass
    assert caplog.text == ""


async def test_cancelling_a_task_that_talks_to_redis_always_ends_it(redis: Redis, name: str) -> None:
    queue = WriteQueue(redis, QueueRef(namespace="default", name=name), 0)
    await queue.statistics()  # connects

    async def ask_for_ever() -> None:
        while True:
            await queue.statistics()

    for steps in range(1, 200):
        asking = asyncio.create_task(ask_for_ever())
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        _, alive = await asyncio.wait({asking}, timeout=2)
        assert not alive, f"cancelled after {steps} steps of the event loop"
