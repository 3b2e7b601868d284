"""The floor of recovery: an activity that heartbeats and does nothing else.

`python -m write_batcher.bench.floors.plain_heartbeat` runs its worker, which prints a line of JSON when an attempt of
the activity begins: {"attempt": 2}.
"""

import asyncio
import json
import os
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.envconfig import ClientConfig
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

TASK_QUEUE = "bench-heartbeats"
BEAT_EVERY = timedelta(seconds=1)
RUN_FOR = timedelta(hours=1)
# As the drain is retried.
RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0)


@activity.defn
async def beat() -> None:
    """Heartbeat for ever."""
    sys.stdout.write(json.dumps({"attempt": activity.info().attempt}) + "\n")
    sys.stdout.flush()
    while True:
        activity.heartbeat()
        await asyncio.sleep(BEAT_EVERY.total_seconds())


@workflow.defn
class Host:
    """Hosts the activity."""

    @workflow.run
    async def run(self, heartbeat_s: int) -> None:
        await workflow.execute_activity(
            beat,
            start_to_close_timeout=RUN_FOR,
            heartbeat_timeout=timedelta(seconds=heartbeat_s),
            retry_policy=RETRY,
        )


async def main() -> None:
    """Run the worker until it is killed."""
    client = await Client.connect(**ClientConfig.load_client_connect_config())
    await Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[Host],
        activities=[beat],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ).run()


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # a process that used temporalio may abort while Python exits (sdk-python#300)
