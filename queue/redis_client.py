"""Redis clients with the options that write-batcher needs, and the one place where errors of redis-py become ours."""

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

from write_batcher.errors import QueueForbidden, QueueFull, QueueUnavailable
from write_batcher.queue.redis_url import RedisAddress, RedisSetup, parse_redis_url

MAX_CONNECTIONS = 32
COMMAND_TIMEOUT = timedelta(seconds=5)

# Options of redis-py that write-batcher sets itself. Another value in the URL would break appends or reads, some of
# them late and silently.
FIXED_OPTIONS = (
    *("protocol", "legacy_responses", "decode_responses", "encoding", "encoding_errors"),
    *("socket_timeout", "retry", "retry_on_timeout", "retry_on_error", "single_connection_client"),
    *("credential_provider", "event_dispatcher", "maint_notifications_config"),  # objects, which a URL cannot hold
)

# The error code of the Redis protocol. For a command in a script Redis 6.2 puts the script's error in front of it.
_CODE = re.compile(r"(?:Error running script .*?: -?)?(?P<code>[A-Z]+)\b")


class GroupMissing(QueueUnavailable):
    """The consumer group is gone: the stream was deleted, or Redis lost its data."""


class _PrimaryOnly:
    """A connection that closes when its server turns out to be a replica. After a failover behind one address the old
    primary keeps its connections open, and they would never lead to the new one.
    """

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc] # of the connection
        except exceptions.ResponseError as error:
            if _code_of(error) != "READONLY":
                raise
            await self.disconnect()  # type: ignore[attr-defined] # of the connection
            raise exceptions.ConnectionError(f"the server is a replica: {error}") from error


class _ServerConnection(_PrimaryOnly, Connection):
    pass


class _ServerSSLConnection(_PrimaryOnly, SSLConnection):
    pass


class _SentinelConnection(_PrimaryOnly, SentinelManagedConnection):
    pass


class _SentinelSSLConnection(_PrimaryOnly, SentinelManagedSSLConnection):
    pass


def connect(url: str, *, longest_block: timedelta = timedelta(0)) -> Redis:
    """Return a client for `url`, of one of the `redis_url.URL_FORMS`; it connects on first use. For a cluster it is a
    `RedisCluster`, which has the same commands.

    `longest_block` must be at least the longest BLOCK that the client will send. Raises `TypeError` or `ValueError`
    when the URL is malformed, or has an option that is unknown or one of `FIXED_OPTIONS`.
    """
    address = parse_redis_url(url)
    _refuse_fixed_options(address.first_url)
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": COMMAND_TIMEOUT.total_seconds(),  # for a free connection: waiting beats MaxConnectionsError
        "socket_connect_timeout": COMMAND_TIMEOUT.total_seconds(),
        # Without a timeout a frozen server would hang us for ever; one below the block would cut off every quiet read.
        "socket_timeout": (longest_block + COMMAND_TIMEOUT).total_seconds(),
        # redis-py would silently send XADD and XREADGROUP again; the caller, who knows the request id, retries instead.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # reply shapes differ between the protocols
        "decode_responses": False,  # one value that is not UTF-8 would jam the consumer for ever
        **parse_url(address.first_url),
    }
    with_tls = options.pop("connection_class", None) is SSLConnection
    if address.setup is RedisSetup.SINGLE:
        connection_class = _ServerSSLConnection if with_tls else _ServerConnection
        return Redis.from_pool(BlockingConnectionPool(connection_class=connection_class, **options))
    for name in ("host", "port"):
        options.pop(name, None)
    options["ssl"] = with_tls
    if address.setup is RedisSetup.SENTINEL:
        return _sentinel_client(address, options)
    return _cluster_client(address, options)


def _refuse_fixed_options(url: str) -> None:
    for name, value in parse_qsl(urlsplit(url).query):
        if name.removeprefix("sentinel_") in FIXED_OPTIONS:
            raise ValueError(f"its option {name}={value} cannot be chosen, write-batcher sets it itself: remove it")


def _sentinel_client(address: RedisAddress, options: dict[str, Any]) -> Redis:
    """Login and options are for the servers; options that begin with `sentinel_` are for the Sentinels."""
    prefixed = {name: options.pop(name) for name in list(options) if name.startswith("sentinel_")}
    shared = {
        name: value for name, value in options.items() if name.startswith(("socket_", "ssl", "retry", "protocol"))
    }
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.nodes,
        sentinel_kwargs={**shared, **{name.removeprefix("sentinel_"): value for name, value in prefixed.items()}},
    )
    client: Redis = sentinel.master_for(
        address.service,
        connection_pool_class=_SentinelPool,
        connection_class=_SentinelSSLConnection if options["ssl"] else _SentinelConnection,
        **options,
    )
    return client


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Waits for a free connection, and closes the connections to the Sentinels together with its own."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def _cluster_client(address: RedisAddress, options: dict[str, Any]) -> Redis:
    del options["timeout"]  # an option of a blocking pool, which a cluster does not have
    max_commands = options.pop("max_connections")
    startup_nodes = [ClusterNode(host, port) for host, port in address.nodes]
    # By default redis-py closes all connections at every fifth move of a slot, under commands that still use them.
    return cast(Redis, _Cluster(max_commands, startup_nodes=startup_nodes, reinitialize_steps=0, **options))


class _Cluster(RedisCluster):
    """Runs at most `max_commands` at a time and makes the others wait; redis-py's own pools would raise instead."""

    def __init__(self, max_commands: int, **options: Any) -> None:
        super().__init__(**options)
        self._free = asyncio.Semaphore(max_commands)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        async with self._free:
            await self.initialize()  # before that, a command goes to any server and is redirected from there
            # Before each read redis-py asks one fixed server which argument is the key. While that server is down,
            # reads from the other servers would fail too, and redis-py never picks another server to ask.
            if args[0] == "XREADGROUP":
                kwargs["target_nodes"] = self.get_node_from_key(args[args.index(b"STREAMS") + 1])
            try:
                return await super().execute_command(*args, **kwargs)
            except AttributeError as error:
                # While redis-py rediscovers the servers it closes connections, also under a command that is being sent:
                # the connection has no writer any more.
                raise exceptions.ConnectionError("The connection was closed while it was in use.") from error

    async def aclose(self) -> None:
        self._initialize = False  # after an error redis-py sets it to rediscover the servers, and would close nothing
        await super().aclose()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn errors of redis-py that are raised inside into `QueueUnavailable`, `QueueFull` or `GroupMissing`."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        yield
    except exceptions.OutOfMemoryError as error:
        raise _out_of_memory(error) from error
    except (exceptions.NoPermissionError, exceptions.AuthenticationError) as error:
        raise QueueForbidden(
            f"Redis refuses: {_text_of(error)}; name a login in its URL that has the rights in docs/redis-access.md."
        ) from error
    except exceptions.MovedError as error:  # a client of a cluster follows it
        raise QueueUnavailable(
            f"Redis says MOVED {_text_of(error)}: it is a cluster, write redis+cluster:// in its URL."
        ) from error
    except exceptions.ResponseError as error:
        match _code_of(error):
            case "NOGROUP" | "UNBLOCKED":
                raise GroupMissing(f"The consumer group is missing: {_text_of(error)}.") from error
            case "OOM":  # from a script, Redis 6.2 raises it as a plain ResponseError
                raise _out_of_memory(error) from error
            case _:
                raise QueueUnavailable(f"Redis refuses: {_text_of(error)}.") from error
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        raise QueueUnavailable(f"Redis cannot be reached: {_text_of(error)}.") from error
    finally:
        # redis-py sends with asyncio.wait_for, which on Python 3.11 loses a cancellation that arrives just as it
        # finishes: the task would go on, and a TaskGroup that waits for its end would wait for ever.
        if task and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError


def _out_of_memory(error: Exception) -> QueueFull:
    return QueueFull(f"Redis is out of memory: {_text_of(error)}; raise its maxmemory or let the batcher catch up.")


def _text_of(error: Exception) -> str:
    """The error's text without a full stop, so that a sentence can go on."""
    return str(error).rstrip(".") or type(error).__name__


def _code_of(error: exceptions.ResponseError) -> str | None:
    if isinstance(error, exceptions.ReadOnlyError):  # redis-py strips the code when it has a class for it
        return "READONLY"
    found = _CODE.match(str(error))
    return found["code"] if found else None
