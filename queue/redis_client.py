"""Redis clients with the options this job needs, and the one place where a driver's errors become ours."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Connection, Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff

from write_batcher.errors import QueueFull, QueueUnavailable
from write_batcher.queue.redis_url import Kind, RedisAddress, parse_address

MAX_CONNECTIONS = 32
COMMAND_TIMEOUT = timedelta(seconds=5)

# Options of redis-py that this job decides on. Another value in the URL would break appends, reads or both, and some of
# them late and silently.
FIXED_OPTIONS = (
    *("protocol", "legacy_responses", "decode_responses", "encoding", "encoding_errors"),
    *("socket_timeout", "retry", "retry_on_timeout", "retry_on_error", "single_connection_client"),
    *("credential_provider", "event_dispatcher", "maint_notifications_config"),  # objects, which no text can name
)

# The error code of the Redis protocol. Redis 6.2 puts that of a script around that of its command.
_CODE = re.compile(r"(?:Error running script .*?: -?)?(?P<code>[A-Z]+)\b")


class GroupMissing(QueueUnavailable):
    """The consumer group is gone: the stream was deleted, or Redis lost its data."""


class _LeavesReplicas:
    """A connection that ends when its server says that it is a replica. After a failover behind one address the old
    primary keeps its connections, and they would never lead to the new one.
    """

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc] # of the connection
        except exceptions.ResponseError as error:
            if _code_of(error) != "READONLY":
                raise
            await self.disconnect()  # type: ignore[attr-defined] # of the connection
            raise exceptions.ConnectionError(
                f"the server is a replica, no longer or not the primary: {error}"
            ) from error


class _ServerConnection(_LeavesReplicas, Connection):
    pass


class _ServerSSLConnection(_LeavesReplicas, SSLConnection):
    pass


class _PrimaryConnection(_LeavesReplicas, SentinelManagedConnection):
    pass


class _PrimarySSLConnection(_LeavesReplicas, SentinelManagedSSLConnection):
    pass


def connect(url: str, *, longest_block: timedelta = timedelta(0)) -> Redis:
    """A client for what `url` names (`address.FORMS`); connects on first use. `longest_block` is the longest BLOCK it
    will send. Raises TypeError or ValueError for an option that it cannot have.

    For a cluster it is a `RedisCluster`, which has the same commands.
    """
    address = parse_address(url)
    _refuse_fixed_options(address.first)
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": COMMAND_TIMEOUT.total_seconds(),  # for a free connection: waiting beats MaxConnectionsError
        "socket_connect_timeout": COMMAND_TIMEOUT.total_seconds(),
        # None would hang for ever on a frozen server; shorter than the block would cut every quiet read.
        "socket_timeout": (longest_block + COMMAND_TIMEOUT).total_seconds(),
        # redis-py would silently send XADD and XREADGROUP again; whoever knows the request id retries instead.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # reply shapes differ between the protocols
        "decode_responses": False,  # one value that is not UTF-8 would jam the consumer for ever
        **parse_url(address.first),
    }
    with_tls = options.pop("connection_class", None) is SSLConnection
    if address.kind is Kind.SERVER:
        connection_class = _ServerSSLConnection if with_tls else _ServerConnection
        return Redis.from_pool(BlockingConnectionPool(connection_class=connection_class, **options))
    for name in ("host", "port"):
        options.pop(name, None)
    options["ssl"] = with_tls
    if address.kind is Kind.SENTINEL:
        return _sentinel_client(address, options)
    return _cluster_client(address, options)


def _refuse_fixed_options(url: str) -> None:
    for name, value in parse_qsl(urlsplit(url).query):
        if name.removeprefix("sentinel_") in FIXED_OPTIONS:
            raise ValueError(f"its option {name}={value} cannot be chosen, write-batcher needs its own: remove it")


def _sentinel_client(address: RedisAddress, options: dict[str, Any]) -> Redis:
    """The login and the options are for the servers; for the Sentinels those that begin with `sentinel_`."""
    own = {name: options.pop(name) for name in list(options) if name.startswith("sentinel_")}
    shared = {
        name: value for name, value in options.items() if name.startswith(("socket_", "ssl", "retry", "protocol"))
    }
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.nodes,
        sentinel_kwargs={**shared, **{name.removeprefix("sentinel_"): value for name, value in own.items()}},
    )
    client: Redis = sentinel.master_for(
        address.service,
        connection_pool_class=_PrimaryPool,
        connection_class=_PrimarySSLConnection if options["ssl"] else _PrimaryConnection,
        **options,
    )
    return client


class _PrimaryPool(SentinelConnectionPool, BlockingConnectionPool):
    """Waits for a free connection, and closes those to the Sentinels with its own."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def _cluster_client(address: RedisAddress, options: dict[str, Any]) -> Redis:
    del options["timeout"]  # an option of a pool that waits
    at_once = options.pop("max_connections")
    startup_nodes = [ClusterNode(host, port) for host, port in address.nodes]
    # At every fifth move of a slot redis-py would close the connections under the commands of everybody else.
    return cast(Redis, _Cluster(at_once, startup_nodes=startup_nodes, reinitialize_steps=0, **options))


class _Cluster(RedisCluster):
    """Has at most `at_once` commands under way; the pools of redis-py's own would refuse more than they hold."""

    def __init__(self, at_once: int, **options: Any) -> None:
        super().__init__(**options)
        self._free = asyncio.Semaphore(at_once)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        async with self._free:
            await (
                self.initialize()
            )  # a command that comes earlier would be sent to any server, and be sent on from there
            # redis-py asks one of the servers which argument of a read is its key, before each read; while that server
            # is down it would read from none of the others either, and never look for another one to ask.
            if args[0] == "XREADGROUP":
                kwargs["target_nodes"] = self.get_node_from_key(args[args.index(b"STREAMS") + 1])
            return await super().execute_command(*args, **kwargs)

    async def aclose(self) -> None:
        self._initialize = False  # redis-py closes nothing while it means to look for the servers anew, after an error
        await super().aclose()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the errors of redis-py inside as `QueueUnavailable` or one of its kinds."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        yield
    except exceptions.OutOfMemoryError as error:
        raise QueueFull(f"Redis is out of memory: {error}; raise its maxmemory or let the batcher catch up") from error
    except exceptions.MovedError as error:  # a client of a cluster follows it
        raise QueueUnavailable(
            f"Redis says MOVED {error}: it is a cluster, write redis+cluster:// in its URL"
        ) from error
    except exceptions.ResponseError as error:
        match _code_of(error):
            case "NOGROUP" | "UNBLOCKED":
                raise GroupMissing(str(error)) from error
            case "OOM":  # without a class of its own when Redis 6.2 raises it from a script
                raise QueueFull(f"Redis is out of memory: {error}") from error
            case _:
                raise QueueUnavailable(f"Redis refuses: {error}") from error
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    finally:
        # redis-py sends with asyncio.wait_for, which on Python 3.11 loses a cancellation that comes just when it has
        # finished: the task would go on, and whoever waits for its end (a TaskGroup) would wait for ever.
        if task and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError


def _code_of(error: exceptions.ResponseError) -> str | None:
    if isinstance(error, exceptions.ReadOnlyError):  # redis-py takes the code off when it has a class for it
        return "READONLY"
    found = _CODE.match(str(error))
    return found["code"] if found else None
