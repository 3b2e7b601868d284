"""Running the command `write-batcher` as a user does: a process, its output and its exit status."""

import asyncio
import os
import sys
from pathlib import Path

COMMAND = (sys.executable, "-m", "write_batcher.cli.app")
CLEAN_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "WRITE_BATCHER_"))
}


async def run_command(
    *arguments: str, environment: dict[str, str] | None = None, folder: Path | None = None, within_s: float = 60
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, run in `folder`; `environment` is added to a clean one."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        env=CLEAN_ENVIRONMENT | (environment or {}),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()
