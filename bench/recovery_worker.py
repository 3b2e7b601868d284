"""A batcher worker with another heartbeat timeout, which is no setting: `python -m ...recovery_worker SECONDS`."""

import asyncio
import os
import sys
import traceback
from datetime import timedelta

from write_batcher.config import load_settings
from write_batcher.workers.batcher_worker import run_batcher_worker
from write_batcher.workers.logs import log_to_stderr
from write_batcher.workflows import batcher


def main(heartbeat_s: str) -> None:
    """Run the worker until SIGTERM."""
    batcher.HEARTBEAT_TIMEOUT = timedelta(seconds=int(heartbeat_s))
    status = 0
    try:
        settings = load_settings()
        log_to_stderr(settings.log_format)
        asyncio.run(run_batcher_worker(settings))
    except Exception:  # noqa: BLE001 - the edge of the process; the parent shows what is printed here
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a process that used temporalio may abort while Python exits (sdk-python#300)


if __name__ == "__main__":
    main(*sys.argv[1:])
