"""The machine and the software versions that a comparison ran on."""

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

from write_batcher import connect_redis
from write_batcher.compare.servers import Servers
from write_batcher.workers.embedded.local_stack import Database

CPU_INFO = Path("/proc/cpuinfo")
GIB = 1024**3


def machine() -> dict[str, str]:
    """Return processor, memory and operating system of this machine."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count() or "unknown"),
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "os": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}, {platform.machine()}",
        "python": platform.python_version(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of this package and of the Temporal SDK."""
    return {"write-batcher": version("write-batcher"), "temporalio": version("temporalio")}


async def server_versions(servers: Servers, database: Database, *, uses_redis: bool) -> dict[str, str]:
    """Return the versions that the servers report; that of Redis only if the contender uses it."""
    temporal = await servers.client.workflow_service.get_system_info(GetSystemInfoRequest())
    found = {"Temporal server": temporal.server_version}
    if uses_redis:
        async with await connect_redis(servers.settings) as redis:
            info = await redis.info("server")
        name = "Valkey" if "valkey_version" in info else "Redis"
        found[name] = str(info.get("valkey_version", info["redis_version"]))
    if database == "sqlite":
        return found | {"SQLite": sqlite3.sqlite_version}
    engine = create_async_engine(servers.settings.database_url)
    try:
        async with engine.connect() as connection:
            answer = (await connection.execute(text("SHOW server_version"))).scalar_one()
    finally:
        await engine.dispose()
    return found | {"PostgreSQL": str(answer)}


def _cpu_model() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
