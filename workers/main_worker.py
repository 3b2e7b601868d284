"""The callers' worker process: MainWorkflow, its business activity, and the activity that enqueues writes."""

import logging

from temporalio.client import Client
from temporalio.worker import Worker

from write_batcher.activities.business import do_business_step
from write_batcher.config import Settings, hide_password
from write_batcher.workers.connections import connect_redis, connect_temporal
from write_batcher.workers.plugin import WriteBatching
from write_batcher.workers.serving import SHUTDOWN_GRACE, serve
from write_batcher.workflows.main import MainWorkflow

logger = logging.getLogger(__name__)


def make_main_worker(client: Client, settings: Settings) -> Worker:
    """Build a worker of `settings.main_task_queue`; it is not started."""
    return Worker(
        client,
        task_queue=settings.main_task_queue,
        workflows=[MainWorkflow],
        activities=[do_business_step],
        plugins=[WriteBatching(settings)],
        graceful_shutdown_timeout=SHUTDOWN_GRACE,
    )


async def run_main_worker(settings: Settings) -> None:
    """Run the callers' worker until SIGTERM or Ctrl-C.

    Raises `ConfigurationError` when Temporal or Redis cannot be used at the start.
    """
    client = await connect_temporal()
    redis = await connect_redis(settings)
    await redis.aclose()
    logger.info(
        "main worker: task queue %s of namespace %s at %s, Redis %s",
        settings.main_task_queue,
        client.namespace,
        client.service_client.config.target_host,
        hide_password(settings.redis_url),
    )
    await serve(make_main_worker(client, settings))
