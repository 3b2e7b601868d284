"""The command `write-batcher`. Drivers are imported inside the commands, so that `--help` is quick."""

import os
import sys
import traceback
from typing import NoReturn

import typer

from write_batcher.cli.bench_commands import bench_app
from write_batcher.cli.compare_commands import compare_app
from write_batcher.cli.console import print_error
from write_batcher.cli.dead_letter_commands import dead_letters_app
from write_batcher.cli.demo_commands import demo_command, start_command, up_command
from write_batcher.cli.queue_commands import monitor_command, queue_app
from write_batcher.cli.queued_request_commands import list_command, move_command, reject_command, release_command
from write_batcher.cli.running import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from write_batcher.cli.schema_commands import schema_app
from write_batcher.cli.signal_batcher_commands import signal_batcher_app
from write_batcher.cli.worker_commands import worker_app
from write_batcher.errors import ConfigurationError, QueueForbidden, WriteBatcherError

app = typer.Typer(
    help="Many Temporal workflows write to one database in batches, through a Redis stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(worker_app, name="worker")
app.add_typer(queue_app, name="queue")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(schema_app, name="schema")
app.add_typer(signal_batcher_app, name="signal-batcher")
app.add_typer(compare_app, name="compare")
app.add_typer(bench_app, name="bench")

queue_app.command("list")(list_command)
queue_app.command("reject")(reject_command)
queue_app.command("release")(release_command)
queue_app.command("move")(move_command)

app.command("demo")(demo_command)
app.command("up")(up_command)
app.command("start")(start_command)
app.command("monitor")(monitor_command)


def main() -> NoReturn:
    """Run the command, and end the process with its status: 0 done, 1 failed, 2 wrong usage, settings or servers, 130
    interrupted.
    """
    try:
        app()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else EXIT_FAILED
    except (ConfigurationError, QueueForbidden) as error:
        print_error(str(error))
        status = EXIT_USAGE
    except WriteBatcherError as error:
        print_error(str(error))
        status = EXIT_FAILED
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except Exception:  # noqa: BLE001 - a bug; the process must still end as below
        traceback.print_exc()
        status = EXIT_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # Without Python's own exit: a process that used temporalio may abort there (sdk-python#300). All is closed by now.
    os._exit(status)


if __name__ == "__main__":
    main()
