"""The worker processes: `write-batcher worker main` and `worker batcher`."""

import typer

from write_batcher.cli.options import BATCHES, DEAD_LETTERS, REQUESTS, with_settings
from write_batcher.cli.running import run_to_end
from write_batcher.config import Settings

worker_app = typer.Typer(help="Run a worker process until SIGTERM or Ctrl-C.", no_args_is_help=True)


@worker_app.command("main")
@with_settings("redis_url", "main_task_queue", "log_format")
def worker_main_command(*, settings: Settings) -> None:
    """Run the callers: MainWorkflow, its business activity and the enqueue activity."""
    from write_batcher.workers.logs import log_to_stderr
    from write_batcher.workers.main_worker import run_main_worker

    log_to_stderr(settings.log_format)
    run_to_end(run_main_worker(settings))


@worker_app.command("batcher")
@with_settings(
    "redis_url",
    "database_url",
    "tables",
    "queue",
    *BATCHES,
    *REQUESTS,
    "deduplication_window",
    *DEAD_LETTERS,
    "heartbeat_timeout",
    "park_after",
    "parked_for",
    "batcher_task_queue",
    "log_format",
)
def worker_batcher_command(*, settings: Settings) -> None:
    """Run the batcher: drain the queue into the database."""
    from write_batcher.workers.batcher_worker import run_batcher_worker
    from write_batcher.workers.logs import log_to_stderr

    log_to_stderr(settings.log_format)
    run_to_end(run_batcher_worker(settings))
