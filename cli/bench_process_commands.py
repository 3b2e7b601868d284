"""Commands of `write-batcher bench` about whole processes and whole workflows."""

from pathlib import Path
from typing import Annotated

import typer

from write_batcher.bench.memory_plan import MemoryPlan
from write_batcher.bench.recovery_plan import RecoveryPlan
from write_batcher.bench.workflow_plan import Load, WorkflowPlan
from write_batcher.cli.bench_options import (
    BOTH,
    EXTRAS,
    MOST_CALLERS,
    MOST_ITEMS,
    MOST_REQUESTS,
    MOST_TASKS,
    WHAT,
    OneDatabase,
    Out,
    Rounds,
    parse_count,
    parse_databases,
    parse_rounds,
    run_benchmark,
)
from write_batcher.cli.extras import needing
from write_batcher.cli.options import ResultAsJson


def memory_command(
    *,
    rounds: Rounds = "1",
    requests: Annotated[str, typer.Option(metavar="N", help="Requests in the stream.")] = "1000000",
    batch_size: Annotated[str, typer.Option(metavar="N", help="Requests in a batch.")] = "100",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Measure the resident memory of a process that drains a long stream: after a tenth of it, the highest, and at the
    end; and that of the loop without ledger and checks.

    Ends with status 1 when ours grows, or when not exactly the records of the stream were written.
    """
    plan = MemoryPlan(
        rounds=parse_rounds(rounds),
        requests=parse_count("--requests", requests, 1, MOST_REQUESTS),
        batch_size=parse_count("--batch-size", batch_size, 1, MOST_ITEMS),
    )
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.memory_benchmark import measure_memory
    run_benchmark(measure_memory, plan, measurements=plan.measurements, out=out, as_json=as_json)


def recovery_command(*, rounds: Rounds = "3", out: Out = None, as_json: ResultAsJson = False) -> None:
    """Measure how long nothing is written after the batcher's worker was killed by SIGKILL, with heartbeat timeouts of
    10 and of 3 seconds; and how long it takes until a bare activity is tried again.

    Ends with status 1 when nothing is written within a minute, or a row is missing or there twice.
    """
    plan = RecoveryPlan(rounds=parse_rounds(rounds))
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.recovery_benchmark import measure_recovery
    run_benchmark(measure_recovery, plan, measurements=plan.measurements, out=out, as_json=as_json)


def latency_command(
    *,
    database: OneDatabase = BOTH,
    rounds: Rounds = "3",
    workflows: Annotated[str, typer.Option(metavar="N", help="Workflows of each measurement.")] = "100",
    at_once: Annotated[str, typer.Option(metavar="N", help="How many of them run at a time.")] = "5",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Measure how long a write takes at a low load, from the submit in a workflow to its outcome: through this library
    with a `max_wait` of 50 ms, by signal and by completion, and directly, by one transaction per write.

    Ends with status 1 when a workflow fails, or has another number of rows than one.
    """
    _measure_workflows(
        WorkflowPlan(
            load=Load.LATENCY,
            databases=tuple(one.value for one in parse_databases(database)),
            rounds=parse_rounds(rounds),
            workflows=parse_count("--workflows", workflows, 1, MOST_CALLERS),
            at_once=parse_count("--at-once", at_once, 1, MOST_TASKS),
        ),
        out=out,
        as_json=as_json,
    )


def end_to_end_command(
    *,
    database: OneDatabase = BOTH,
    rounds: Rounds = "3",
    workflows: Annotated[str, typer.Option(metavar="N", help="Workflows of each measurement.")] = "300",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Measure how many writes a second many workflows make that are started at once: through this library with a
    `max_wait` of 50 ms, by signal and by completion, and directly, by one transaction per write.

    Ends with status 1 when a workflow fails, or has another number of rows than one.
    """
    number = parse_count("--workflows", workflows, 1, MOST_CALLERS)
    _measure_workflows(
        WorkflowPlan(
            load=Load.END_TO_END,
            databases=tuple(one.value for one in parse_databases(database)),
            rounds=parse_rounds(rounds),
            workflows=number,
            at_once=number,
        ),
        out=out,
        as_json=as_json,
    )


def _measure_workflows(plan: WorkflowPlan, *, out: Path | None, as_json: bool) -> None:
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.workflow_benchmark import measure_workflows
    run_benchmark(measure_workflows, plan, measurements=plan.measurements, out=out, as_json=as_json)
