"""PgBouncer, as Debian ships it, in front of an embedded PostgreSQL."""

import asyncio
import os
import shutil
from pathlib import Path

from sqlalchemy import make_url

from write_batcher.errors import ConfigurationError
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.server import HOST, Server

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer(Server):
    """A pooler with the default configuration and `pool_mode`: a transaction gets any of few connections."""

    name = "PgBouncer"

    def __init__(self, folder: Path, server: PostgresServer, *, pool_mode: str = "transaction", size: int = 2) -> None:
        # It refuses to run as root.
        super().__init__(folder, ports={self.name: None}, extra=(), user="nobody" if os.geteuid() == 0 else None)
        self._server = make_url(server.url())
        self._settings = {"pool_mode": pool_mode, "default_pool_size": size}

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://caller@{HOST}:{self.port}/{database}"

    async def _program(self) -> str:
        if PROGRAM is None:
            raise ConfigurationError("PgBouncer is missing: apt-get install pgbouncer.")
        return PROGRAM

    def _arguments(self) -> list[str]:
        login = f"user={self._server.username} password={self._server.password}"
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "auth_type": "any",
            "unix_socket_dir": "",
            **self._settings,
        }
        file = self.folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={HOST} port={self._server.port} {login}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        return [str(file)]

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
