"""A worker process of a comparison: `python -m write_batcher.compare.worker CONTENDER ROLE`."""

import asyncio
import os
import sys
import traceback
from typing import NoReturn

from write_batcher import load_settings, log_to_stderr
from write_batcher.compare.contenders import design_of
from write_batcher.compare.database_meter import DatabaseMeter


def main(contender: str, role: str) -> NoReturn:
    """Run the worker until SIGTERM, and report its use of the database at each SIGUSR1."""
    status = 0
    try:
        settings = load_settings()
        log_to_stderr(settings.log_format)
        DatabaseMeter().report_on_signal()
        asyncio.run(design_of(contender).run_worker(role, settings))
    except Exception:  # noqa: BLE001 - the edge of the process; the parent shows what is printed here
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # As in the command: a process that used temporalio may abort while Python exits (sdk-python#300).
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
