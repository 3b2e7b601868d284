"""The machine and the servers of a benchmark, as far as its figures depend on them."""

import os
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from redis import Redis
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client

from write_batcher.compare.machine import machine

SYNCS = 50
SYNCED_BYTES = 4096  # some rows
DISTRIBUTIONS = ("write-batcher", "temporalio", "redis", "sqlalchemy", "aiosqlite", "psycopg")


def describe_machine(folder: Path) -> dict[str, str]:
    """Return what the machine is, and how long its disk takes at `folder` to make a few rows durable: every commit of
    every contestant waits for that.
    """
    return machine() | {"fsync": f"{_fsync_ms(folder):.2f} ms"}


def describe_versions(redis_url: str, postgresql: str | None) -> dict[str, str]:
    """Return the versions of servers and packages; `postgresql` is what that server reports."""
    with Redis.from_url(redis_url, protocol=2) as redis:
        info = redis.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    found = {name: str(info.get("valkey_version", info["redis_version"])), "SQLite": sqlite3.sqlite_version}
    if postgresql is not None:
        found["PostgreSQL"] = postgresql
    return found | package_versions()


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that do the work."""
    return {distribution: version(distribution) for distribution in DISTRIBUTIONS}


async def temporal_version(client: Client) -> dict[str, str]:
    """Return the version that the Temporal server reports, by the name of the server."""
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    return {"Temporal server": info.server_version}


def _fsync_ms(folder: Path) -> float:
    path = folder / "fsync"
    with path.open("wb", buffering=0) as file:
        times = []
        for _ in range(SYNCS):
            file.write(bytes(SYNCED_BYTES))
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    path.unlink()
    return median(times) * 1000
