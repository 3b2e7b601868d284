"""The embedded stack: a Temporal dev server, a Valkey or Redis server and a database, for demo, `up` and tests."""

import contextlib
import fcntl
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from write_batcher.errors import ConfigurationError
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.temporal_server import TemporalServer

Database = Literal["sqlite", "postgresql"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The fixed ports of a stack, by default those that the servers' own tools expect."""

    temporal: int = 7233
    ui: int = 8233
    redis: int = 6379
    postgres: int = 5432


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStack:
    """A running stack: its servers and their addresses."""

    temporal: TemporalServer
    redis: RedisServer
    data_dir: Path
    postgres: PostgresServer | None = None
    """None when the database is a SQLite file."""

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
        """The variables that make a worker or client of this project use the stack."""
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
    """Run the stack while the context is open, on free ports unless `ports` are given.

    All data is kept in `data_dir`, where a later stack continues with it. Without one, data goes to a temporary folder,
    which stays behind only if this process is killed. PostgreSQL accepts `postgres_connections` at once.

    Raises `ConfigurationError` when `data_dir` cannot be used or is in use, a port is taken, or this machine lacks a
    server, and `ServerNotStarted` when a server ends or does not answer within a minute.
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
    """Lock the folder `named` while the context is open, created if needed; without a name a temporary folder.

    Raises `ConfigurationError` when the folder cannot be written or another stack uses it.
    """
    if named is None:
        with tempfile.TemporaryDirectory(prefix="write-batcher-") as temporary:
            yield Path(temporary)
        return
    folder = named.expanduser().absolute()
    with contextlib.ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context((folder / "lock").open("w"))
            # Two Valkey servers that append to one file corrupt it.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another stack uses the data folder {folder}: stop it, or choose another folder."
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"The data folder {folder} cannot be used ({error.strerror}): choose one that can be written."
            ) from error
        yield folder
