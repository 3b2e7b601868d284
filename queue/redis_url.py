"""What a Redis URL names: one server, a cluster, or a service that Sentinels watch. Loads no driver."""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

PORT = 6379
SENTINEL_PORT = 26379
FORMS = (
    "redis://HOST:PORT/DB, redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB; "
    "for TLS rediss instead of redis"
)


class Kind(StrEnum):
    SERVER = ""
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


# What may stand behind the nodes: a cluster has one database.
_PATHS = {
    Kind.SERVER: re.compile(r"/?|/(?P<db>\d+)"),
    Kind.CLUSTER: re.compile(r"/?|/(?P<db>0)"),
    Kind.SENTINEL: re.compile(r"/(?P<service>[^/]+)(?:/(?P<db>\d*))?"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """`nodes` are host and port of each. `first` is the URL of the first one, in the form for one server, with login,
    database and options.
    """

    kind: Kind
    nodes: list[tuple[str, int]]
    service: str
    first: str


def parse_address(url: str) -> RedisAddress:
    """Raises ValueError, with nothing of the URL in it, for what has none of the `FORMS`."""
    try:
        parts = urlsplit(url)
        scheme, plus, kind_name = parts.scheme.partition("+")
        kind = Kind(kind_name)
        login, at, hosts = parts.netloc.rpartition("@")
        names = hosts.split(",")
        nodes = [_node(name, SENTINEL_PORT if kind is Kind.SENTINEL else PORT) for name in names]
    except ValueError:  # its message may show a part of the password
        raise _no_redis_url() from None
    path = _PATHS[kind].fullmatch(parts.path)
    if scheme not in ("redis", "rediss") or path is None or bool(plus) is (kind is Kind.SERVER):
        raise _no_redis_url()
    if kind is Kind.SERVER and len(nodes) > 1:
        raise _no_redis_url()
    found = path.groupdict()
    first = parts._replace(scheme=scheme, netloc=login + at + names[0], path=f"/{found['db'] or 0}")
    return RedisAddress(kind=kind, nodes=nodes, service=unquote(found.get("service") or ""), first=first.geturl())


def _node(name: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{name}")
    if not parts.hostname:
        raise _no_redis_url()
    return unquote(parts.hostname), parts.port or default_port


def _no_redis_url() -> ValueError:
    return ValueError(f"not a Redis URL; write {FORMS}")
