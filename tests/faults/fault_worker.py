"""A worker process that can be broken: `python -m tests.faults.fault_worker ROLE [OPTION...]`.

It runs the product's own worker, with the settings of its environment, after it has been prepared to fail.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

from temporalio.common import RetryPolicy

from tests.faults import crash_points
from write_batcher.activities.drain.watch import Watch
from write_batcher.config import load_settings
from write_batcher.models import Batch, WriteReceipt
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers import batcher_worker as batcher_worker
from write_batcher.workers.batcher_worker import run_batcher_worker
from write_batcher.workers.logs import log_to_stderr
from write_batcher.workers.main_worker import run_main_worker
from write_batcher.workflows import batcher, main as main_workflow
from write_batcher.workflows.inbox import Inbox

HEARTBEAT_TIMEOUT_S = 3.0  # so that a test need not wait long for the successor of a dead drain
STEP_TIMEOUT = timedelta(seconds=15)  # nor for business steps that died with their worker
ENSURE_EVERY = timedelta(seconds=2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["main", "batcher"])
    parser.add_argument("--crash", action="append", default=[], metavar="POINT[:TIMES]")
    parser.add_argument("--request-id", help="all callers submit under this id")
    parser.add_argument("--die-of-item", metavar="ITEM", help="end the process when a batch with this item is written")
    parser.add_argument("--block-s", type=float, default=0.0, help="block the event loop once, after a commit")
    parser.add_argument("--freeze", metavar="POINT", help="stop the process by SIGSTOP once, at a crash point")
    parser.add_argument("--kill-heartbeat", action="store_true", help="the first heartbeat fails")
    parser.add_argument("--cancel-heartbeat", action="store_true", help="cancel the heartbeat after the first batch")
    parser.add_argument("--heartbeat-timeout-s", type=float, default=HEARTBEAT_TIMEOUT_S)
    arguments = parser.parse_args()
    batcher.HEARTBEAT_TIMEOUT = timedelta(seconds=arguments.heartbeat_timeout_s)
    main_workflow.STEP_TIMEOUT = STEP_TIMEOUT
    main_workflow.STEP_RETRY = RetryPolicy()  # for ever, or outages of a minute would fail callers before they write
    batcher_worker.ENSURE_EVERY = ENSURE_EVERY
    for crash in arguments.crash:
        crash_points.arm(crash_points.CrashPoint.parse(crash))
    if arguments.request_id:
        setattr(Inbox, "next_request_id", lambda _inbox: arguments.request_id)  # noqa: B010
    if arguments.die_of_item:
        _die_of(arguments.die_of_item)
    if arguments.block_s:
        _once_after_a_commit(partial(_block, arguments.block_s))
    if arguments.freeze:
        crash_points.arm(crash_points.CrashPoint.parse(arguments.freeze, sends=signal.SIGSTOP))
    if arguments.cancel_heartbeat:
        _once_after_a_commit(_cancel_heartbeat)
    if arguments.kill_heartbeat:
        _kill_heartbeat()
    settings = load_settings()
    log_to_stderr(settings.log_format)
    asyncio.run(run_main_worker(settings) if arguments.role == "main" else run_batcher_worker(settings))
    sys.stderr.flush()
    os._exit(0)  # a process that used temporalio may abort while Python exits (sdk-python#300)


def _die_of(item: str) -> None:
    write = SqlSink.write

    async def deadly(sink: SqlSink, batch: Batch) -> list[WriteReceipt]:
        if any(request.record.get("item") == item for request in batch.requests):
            os.kill(os.getpid(), signal.SIGSEGV)
        return await write(sink, batch)

    setattr(SqlSink, "write", deadly)  # noqa: B010 - mypy refuses the assignment


def _once_after_a_commit(happen: Callable[[], Awaitable[None]]) -> None:
    write = SqlSink.write
    happened = False

    async def disturbed(sink: SqlSink, batch: Batch) -> list[WriteReceipt]:
        nonlocal happened
        receipts = await write(sink, batch)
        if not happened:
            happened = True
            await happen()
        return receipts

    setattr(SqlSink, "write", disturbed)  # noqa: B010


async def _block(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - a driver that blocks is what is tested
    await asyncio.sleep(seconds)  # the successor may begin in this process, and overtakes what hangs here


async def _cancel_heartbeat() -> None:
    for task in asyncio.all_tasks():
        if task.get_name() == "heartbeat":
            task.cancel()


def _kill_heartbeat() -> None:
    """The heartbeat of the first drain of this process fails; the next drains keep theirs."""
    beat = Watch.beat
    killed = False

    async def mortal(watch: Watch, details: Any) -> None:
        nonlocal killed
        if not killed:
            killed = True
            raise RuntimeError("the heartbeat failed")
        await beat(watch, details)

    setattr(Watch, "beat", mortal)  # noqa: B010


if __name__ == "__main__":
    main()
