"""A worker process that can be broken: `python -m tests.faults.fault_worker ROLE [OPTION...]`.

It prepares the failures that its options name, then is the command `write-batcher worker ROLE`, with the settings of
its environment.
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

from tests.faults import crash_points, key_server
from write_batcher.activities.drain.watch import Watch
from write_batcher.cli.app import main as run_command
from write_batcher.models import Batch, Held, WriteReceipt
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers import batcher_worker
from write_batcher.workflows import main as main_workflow
from write_batcher.workflows.shared import Shared

# Shorter than the product's, so that a test need not wait long until what died with a worker is started again.
STEP_TIMEOUT = timedelta(seconds=15)  # of a business step
ENSURE_EVERY = timedelta(seconds=2)  # for batcher workflows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["main", "batcher"])
    parser.add_argument("--crash", action="append", default=[], metavar="POINT[:TIMES]")
    parser.add_argument("--request-id", help="submit all requests under this id")
    parser.add_argument("--die-of-item", metavar="ITEM", help="crash when a batch with this item is written")
    parser.add_argument(
        "--block-s", type=float, default=0.0, help="block the event loop once, after a commit, for this many seconds"
    )
    parser.add_argument("--freeze", metavar="POINT", help="freeze the process once, at this crash point")
    parser.add_argument("--kill-heartbeat", action="store_true", help="let the first heartbeat fail")
    parser.add_argument("--cancel-heartbeat", action="store_true", help="cancel the heartbeat after the first batch")
    parser.add_argument("--encodes", type=int, metavar="N", help="let the payload codec fail after N records")
    parser.add_argument("--hang-at", metavar="TEXT", help="let the payload codec hang at records with this text")
    arguments = parser.parse_args()
    main_workflow.STEP_TIMEOUT = STEP_TIMEOUT
    # Without end, so that an outage of a minute does not fail callers before they write.
    main_workflow.STEP_RETRY = RetryPolicy()
    batcher_worker.ENSURE_EVERY = ENSURE_EVERY
    for crash in arguments.crash:
        crash_points.arm(crash_points.CrashPoint.parse(crash))
    if arguments.request_id:
        setattr(Shared, "next_request_id", lambda _shared: arguments.request_id)  # noqa: B010
    if arguments.die_of_item:
        _crash_on(arguments.die_of_item)
    if arguments.block_s:
        _after_first_commit(partial(_block, arguments.block_s))
    if arguments.freeze:
        crash_points.arm(crash_points.CrashPoint.parse(arguments.freeze, sends=signal.SIGSTOP))
    if arguments.cancel_heartbeat:
        _after_first_commit(_cancel_heartbeat)
    if arguments.kill_heartbeat:
        _kill_heartbeat()
    if arguments.encodes is not None or arguments.hang_at:
        key_server.ask(key_server.KeyServer((arguments.hang_at or "").encode(), arguments.encodes))
    sys.argv = ["write-batcher", "worker", arguments.role]
    run_command()


def _crash_on(item: str) -> None:
    write = SqlSink.write

    async def write_or_crash(sink: SqlSink, batch: Batch) -> list[WriteReceipt | Held]:
        if any(request.record.get("item") == item for request in batch.requests):
            os.kill(os.getpid(), signal.SIGSEGV)
        return await write(sink, batch)

    setattr(SqlSink, "write", write_or_crash)  # noqa: B010 - mypy rejects assignment to a method


def _after_first_commit(disturb: Callable[[], Awaitable[None]]) -> None:
    write = SqlSink.write
    disturbed = False

    async def write_and_disturb(sink: SqlSink, batch: Batch) -> list[WriteReceipt | Held]:
        nonlocal disturbed
        receipts = await write(sink, batch)
        if not disturbed:
            disturbed = True
            await disturb()
        return receipts

    setattr(SqlSink, "write", write_and_disturb)  # noqa: B010


async def _block(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - like a driver that blocks
    await asyncio.sleep(seconds)  # time for the next drain, which may start in this process, to overtake this one


async def _cancel_heartbeat() -> None:
    for task in asyncio.all_tasks():
        if task.get_name() == "heartbeat":
            task.cancel()


def _kill_heartbeat() -> None:
    """Let the heartbeat of this process's first drain fail, and those of later drains work."""
    beat = Watch.beat
    failed = False

    async def fail_once(watch: Watch, details: Any) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise RuntimeError("The heartbeat failed.")
        await beat(watch, details)

    setattr(Watch, "beat", fail_once)  # noqa: B010


if __name__ == "__main__":
    main()
