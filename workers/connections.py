"""Connecting to Temporal and Redis at the start of a process, with errors that say what to do."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.config import Settings, hide_password
from write_batcher.errors import ConfigurationError
from write_batcher.queue.redis_client import connect

CONNECT_TIMEOUT = timedelta(seconds=10)
DEFAULT_TEMPORAL_ADDRESS = "localhost:7233"
DEFAULT_NAMESPACE = "default"

logger = logging.getLogger(__name__)


async def connect_temporal() -> Client:
    """Connect to the Temporal server that TEMPORAL_* or the Temporal profile names, localhost:7233 by default.

    Raises `ConfigurationError` when the profile cannot be read, when the server does not answer within 10 seconds or
    refuses its API key, and when the namespace does not exist.
    """
    config = _temporal_profile()
    address = config.setdefault("target_host", DEFAULT_TEMPORAL_ADDRESS)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT.total_seconds()):
            client = await Client.connect(**config)
            await _check_namespace(client, address)
            return client
    except (RuntimeError, ValueError, TimeoutError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error)
        raise ConfigurationError(
            f"Temporal at {address} cannot be reached ({_without_stop(reason)}): "
            "start it (`write-batcher up`) or set TEMPORAL_ADDRESS."
        ) from error


def temporal_namespace() -> str:
    """Return the namespace that TEMPORAL_NAMESPACE or the Temporal profile names, without connecting: it is part of the
    keys of a queue. Raises `ConfigurationError` when the profile cannot be read.
    """
    return _temporal_profile().get("namespace") or DEFAULT_NAMESPACE


def _temporal_profile() -> ClientConnectConfig:
    try:
        return ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError, OSError) as error:
        reason, _, _ = str(error).partition("\n")  # the next lines quote the file, which may hold an API key
        raise ConfigurationError(
            f"The Temporal profile cannot be read ({_without_stop(reason)}): "
            "correct the file that TEMPORAL_CONFIG_FILE names, or the one that `temporal config` writes."
        ) from None


async def _check_namespace(client: Client, address: str) -> None:
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise ConfigurationError(
                f"Temporal at {address} has no namespace {client.namespace!r}: create it or set TEMPORAL_NAMESPACE."
            ) from error
        if error.status is not RPCStatusCode.PERMISSION_DENIED:  # a key may be allowed to work but not to describe
            raise ConfigurationError(
                f"Temporal at {address} refuses the connection ({_without_stop(error)}): check the address and API key."
            ) from error


async def connect_redis(settings: Settings) -> Redis:
    """Connect to the server of `settings.redis_url`; logs a warning when it would lose or evict queued writes.

    Raises `ConfigurationError` when the URL is wrong, or when the server does not answer or refuses the login.
    """
    try:
        redis = connect(settings.redis_url)
    except (TypeError, ValueError) as error:  # an unknown option in the query of the URL, or a wrong value of one
        raise ConfigurationError(
            f"Redis URL {hide_password(settings.redis_url)} cannot be used ({_without_stop(error)}): "
            "correct WRITE_BATCHER_REDIS_URL."
        ) from error
    try:
        await redis.ping()
        await _warn_of_data_loss(redis)
    # TypeError: redis-py finds some unknown options only when it connects.
    except (RedisError, RedisClusterException, OSError, TypeError) as error:
        await redis.aclose()
        raise ConfigurationError(
            f"Redis at {hide_password(settings.redis_url)} cannot be used ({_without_stop(error)}): "
            "start it (`write-batcher up`) or set WRITE_BATCHER_REDIS_URL."
        ) from error
    return redis


async def _warn_of_data_loss(redis: Redis) -> None:
    try:
        configs = await _configs(redis)
        appendonly = {config["appendonly"] for config in configs}
        policies = {config["maxmemory-policy"] for config in configs}
    except (ResponseError, KeyError) as error:  # managed services refuse CONFIG GET, or answer with nothing
        reason = f"it does not report {error.args[0]}" if isinstance(error, KeyError) else error
        logger.warning("cannot check whether Redis keeps its data (%s): make sure it persists and never evicts", reason)
        return
    if appendonly != {"yes"}:
        logger.warning("Redis has appendonly no and loses queued writes when it restarts: set `appendonly yes`")
    for policy in policies - {"noeviction"}:
        logger.warning(
            "Redis has maxmemory-policy %s and may evict queued writes: set `maxmemory-policy noeviction`", policy
        )


async def _configs(redis: Redis) -> list[dict[str | None, str | None]]:
    """The settings of the server, or of every primary of a cluster."""
    targets: list[dict[str, Any]] = [{}]
    if isinstance(redis, RedisCluster):
        targets = [{"target_nodes": node} for node in redis.get_primaries()]
    # One by one: Redis 6.2 takes only one name per command.
    return [
        await redis.config_get("appendonly", **target) | await redis.config_get("maxmemory-policy", **target)
        for target in targets
    ]


def _without_stop(reason: object) -> str:
    """The text of an error, to be quoted inside a sentence."""
    return str(reason).rstrip(".")
