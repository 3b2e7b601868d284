"""What a Redis URL names: one server, a cluster, or a service behind Sentinels. Imports no driver."""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

PORT = 6379
SENTINEL_PORT = 26379
URL_FORMS = (
    "redis://HOST:PORT/DB, redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB; "
    "for TLS rediss instead of redis"
)


class RedisSetup(StrEnum):
    """How the servers behind a URL work together; the value is what follows `redis+` in the scheme."""

    SINGLE = ""
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


# The path behind the hosts. A cluster has database 0 only.
_PATHS = {
    RedisSetup.SINGLE: re.compile(r"/?|/(?P<db>\d+)"),
    RedisSetup.CLUSTER: re.compile(r"/?|/(?P<db>0)"),
    RedisSetup.SENTINEL: re.compile(r"/(?P<service>[^/]+)(?:/(?P<db>\d*))?"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """A parsed Redis URL."""

    setup: RedisSetup
    nodes: list[tuple[str, int]]
    """Host and port of each server, or of each Sentinel."""
    service: str
    """The name that the Sentinels know the service by, else empty."""
    first_url: str
    """The URL of the first node, in the form for one server, with login, database and options."""


def parse_redis_url(url: str) -> RedisAddress:
    """Parse a URL of one of the forms in `URL_FORMS`.

    Raises `ValueError` for any other text. Its message quotes nothing of the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        scheme, plus, setup_name = parts.scheme.partition("+")
        setup = RedisSetup(setup_name)
        login, at, hosts = parts.netloc.rpartition("@")
        names = hosts.split(",")
        nodes = [_node(name, SENTINEL_PORT if setup is RedisSetup.SENTINEL else PORT) for name in names]
    except ValueError:  # its message may show a part of the password
        raise _not_a_redis_url() from None
    path = _PATHS[setup].fullmatch(parts.path)
    if scheme not in ("redis", "rediss") or path is None or bool(plus) is (setup is RedisSetup.SINGLE):
        raise _not_a_redis_url()
    if setup is RedisSetup.SINGLE and len(nodes) > 1:
        raise _not_a_redis_url()
    found = path.groupdict()
    first = parts._replace(scheme=scheme, netloc=login + at + names[0], path=f"/{found['db'] or 0}")
    return RedisAddress(setup=setup, nodes=nodes, service=unquote(found.get("service") or ""), first_url=first.geturl())


def _node(name: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{name}")
    if not parts.hostname:
        raise _not_a_redis_url()
    return unquote(parts.hostname), parts.port or default_port


def _not_a_redis_url() -> ValueError:
    return ValueError(f"not a Redis URL; write {URL_FORMS}")
