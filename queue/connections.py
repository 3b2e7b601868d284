"""Redis clients with the options this job needs, and the one place where a driver's errors become ours."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from write_batcher.errors import QueueFull, QueueUnavailable

MAX_CONNECTIONS = 32
COMMAND_TIMEOUT = timedelta(seconds=5)


class GroupMissing(QueueUnavailable):
    """The consumer group is gone: the stream was deleted, or Redis lost its data."""


def connect(url: str, *, longest_block: timedelta = timedelta(0)) -> Redis:
    """A client for the server at `url`; connects on first use. `longest_block` is the longest BLOCK it will send."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=COMMAND_TIMEOUT.total_seconds(),  # for a free connection: waiting beats MaxConnectionsError
        socket_connect_timeout=COMMAND_TIMEOUT.total_seconds(),
        # None would hang for ever on a frozen server; shorter than the block would cut every quiet read.
        socket_timeout=(longest_block + COMMAND_TIMEOUT).total_seconds(),
        # redis-py would silently send XADD and XREADGROUP again; whoever knows the request id retries instead.
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # reply shapes differ between the protocols
        decode_responses=False,  # one value that is not UTF-8 would jam the consumer for ever
    )
    return Redis.from_pool(pool)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the errors of redis-py inside as `QueueUnavailable` or one of its kinds."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        yield
    except exceptions.OutOfMemoryError as error:
        raise QueueFull(f"Redis is out of memory: {error}; raise its maxmemory or let the batcher catch up") from error
    except exceptions.ResponseError as error:
        match str(error).split(" ", 1)[0]:  # the error code of the Redis protocol
            case "NOGROUP" | "UNBLOCKED":
                raise GroupMissing(str(error)) from error
            case "OOM":  # Redis 6.2 raises it from scripts without a class of its own
                raise QueueFull(f"Redis is out of memory: {error}") from error
            case _:
                raise QueueUnavailable(f"Redis refuses: {error}") from error
    except (exceptions.RedisError, OSError) as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    finally:
        # redis-py sends with asyncio.wait_for, which on Python 3.11 loses a cancellation that comes just when it has
        # finished: the task would go on, and whoever waits for its end (a TaskGroup) would wait for ever.
        if task and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError
