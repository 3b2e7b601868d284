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
    """Work until SIGTERM, and tell at each SIGUSR1 what was done to the database."""
    status = 0
    try:
        settings = load_settings()
        log_to_stderr(settings.log_format)
        DatabaseMeter().tell_on_signal()
        asyncio.run(design_of(contender).work(role, settings))
    except Exception:  # noqa: BLE001 - the rim of the process; who started it shows its last words
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # As in the command: a process that used temporalio may abort while Python exits (sdk-python#300).
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
