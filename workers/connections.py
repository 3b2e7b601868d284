"""Connecting to Temporal and Redis at start, with an answer that helps when it fails."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.config import Settings, hide_password
from write_batcher.errors import ConfigurationError
from write_batcher.queue.redis_client import connect

CONNECT_TIMEOUT = timedelta(seconds=10)
DEFAULT_TEMPORAL_ADDRESS = "localhost:7233"

logger = logging.getLogger(__name__)


async def connect_temporal() -> Client:
    """A client for what TEMPORAL_* or the Temporal profile names. Raises ConfigurationError when it cannot be used."""
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError, OSError) as error:
        reason, _, _ = str(error).partition("\n")  # the lines behind it quote the file, in which an API key may stand
        raise ConfigurationError(
            f"the Temporal profile cannot be read: {reason}; "
            "correct the file that TEMPORAL_CONFIG_FILE names, or that of `temporal config`"
        ) from None
    address = config.setdefault("target_host", DEFAULT_TEMPORAL_ADDRESS)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT.total_seconds()):
            client = await Client.connect(**config)
            await _check_namespace(client, address)
            return client
    except (RuntimeError, ValueError, TimeoutError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error)
        raise ConfigurationError(
            f"Temporal at {address} cannot be reached: start it (`write-batcher up`) or set TEMPORAL_ADDRESS ({reason})"
        ) from error


async def _check_namespace(client: Client, address: str) -> None:
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise ConfigurationError(
                f"Temporal at {address} has no namespace {client.namespace!r}: create it or set TEMPORAL_NAMESPACE"
            ) from error
        if error.status is not RPCStatusCode.PERMISSION_DENIED:  # a key may be allowed to work but not to describe
            raise ConfigurationError(f"Temporal at {address} refuses: {error}; check its address and key") from error


async def connect_redis(settings: Settings) -> Redis:
    """A client for `settings.redis_url`, checked. Raises ConfigurationError when the server cannot be used; warns when
    it would lose or evict data.
    """
    try:
        redis = connect(settings.redis_url)
    except (TypeError, ValueError) as error:  # an unknown option behind the ?, or a value that it cannot have
        raise ConfigurationError(
            f"Redis URL {hide_password(settings.redis_url)} cannot be used: {error}; correct WRITE_BATCHER_REDIS_URL"
        ) from error
    try:
        await redis.ping()
        await _warn_of_data_loss(redis)
    except (
        RedisError,
        RedisClusterException,
        OSError,
        TypeError,
    ) as error:  # redis-py finds unknown options when it connects
        await redis.aclose()
        raise ConfigurationError(
            f"Redis at {hide_password(settings.redis_url)} cannot be used: {error}; "
            "start it (`write-batcher up`) or set WRITE_BATCHER_REDIS_URL"
        ) from error
    return redis


async def _warn_of_data_loss(redis: Redis) -> None:
    try:
        configs = await _configs(redis)
        appendonly = {config["appendonly"] for config in configs}
        policies = {config["maxmemory-policy"] for config in configs}
    except (ResponseError, KeyError) as error:  # managed services refuse, or answer with nothing
        reason = f"it does not tell its {error.args[0]}" if isinstance(error, KeyError) else error
        logger.warning("cannot check whether Redis keeps its data (%s): make sure it persists and never evicts", reason)
        return
    if appendonly != {"yes"}:
        logger.warning("Redis has appendonly no and loses queued writes when it restarts: set `appendonly yes`")
    for policy in policies - {"noeviction"}:
        logger.warning(
            "Redis has maxmemory-policy %s and may evict queued writes: set `maxmemory-policy noeviction`", policy
        )


async def _configs(redis: Redis) -> list[dict[str | None, str | None]]:
    """Of the server, or of every primary of a cluster."""
    targets: list[dict[str, Any]] = [{}]
    if isinstance(redis, RedisCluster):
        targets = [{"target_nodes": node} for node in redis.get_primaries()]
    # One by one: Redis 6.2 takes no more than one name.
    return [
        await redis.config_get("appendonly", **target) | await redis.config_get("maxmemory-policy", **target)
        for target in targets
    ]
