"""The commands `write-batcher bench ...`: how fast this library is beside the least code that does the same work."""

from typing import Annotated

import typer

from write_batcher.bench.append_plan import AppendPlan
from write_batcher.bench.cases import TRAITS, Case
from write_batcher.bench.confirm_plan import ConfirmPlan
from write_batcher.bench.drain_plan import DrainPlan
from write_batcher.bench.partition_plan import COUNTS, PartitionPlan
from write_batcher.cli.bench_capacity_commands import capacity_command
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
from write_batcher.cli.bench_picture_commands import picture_command
from write_batcher.cli.bench_process_commands import (
    end_to_end_command,
    latency_command,
    memory_command,
    recovery_command,
)
from write_batcher.cli.compare_commands import parse_names
from write_batcher.cli.extras import needing
from write_batcher.cli.options import ResultAsJson

bench_app = typer.Typer(
    help="Measure this library beside the least code that does the same work, on servers of its own.",
    no_args_is_help=True,
)


@bench_app.callback()
def _group() -> None:
    """Measure this library beside the least code that does the same work, on servers of its own."""


@bench_app.command("drain")
def drain_command(
    *,
    case: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(Case)}.")] = Case.PLAIN,
    database: OneDatabase = BOTH,
    rounds: Rounds = "3",
    requests: Annotated[str, typer.Option(metavar="N", help="Requests in the stream of each measurement.")] = "50000",
    batch_size: Annotated[str, typer.Option(metavar="N", help="Requests in a batch, ours and theirs.")] = "100",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Measure how fast a full stream is written: rows per second and CPU time per row of our drain, and of a loop that
    reads, inserts with the bare driver and acknowledges, without ledger and checks.

    Ends with status 1 when anybody wrote something else than what was in the stream.
    """
    [chosen] = parse_names(Case, [case], "case")
    # A batch of one bad record would have nobody whom it could hold up.
    smallest_batch = 2 if TRAITS[chosen].one_bad else 1
    plan = DrainPlan(
        case=chosen,
        databases=tuple(one.value for one in parse_databases(database)),
        rounds=parse_rounds(rounds),
        requests=parse_count("--requests", requests, 1, MOST_REQUESTS),
        batch_size=parse_count("--batch-size", batch_size, smallest_batch, MOST_ITEMS),
    )
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.drain_benchmark import measure_drain
        from write_batcher.bench.drain_rounds import measurements
    run_benchmark(measure_drain, plan, measurements=measurements(plan), out=out, as_json=as_json)


@bench_app.command("append")
def append_command(
    *,
    rounds: Rounds = "3",
    requests: Annotated[str, typer.Option(metavar="N", help="Requests that each measurement appends.")] = "20000",
    tasks: Annotated[str, typer.Option(metavar="N", help="Callers at once, on one client.")] = "50",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Measure how fast requests are appended, one by one and 100 at once: by the activity's producer, and by bare
    XADD of the same bytes.

    Ends with status 1 when the stream has something else than what was appended.
    """
    plan = AppendPlan(
        rounds=parse_rounds(rounds),
        requests=parse_count("--requests", requests, 1, MOST_REQUESTS),
        tasks=parse_count("--tasks", tasks, 1, MOST_TASKS),
    )
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.append_benchmark import measure_append
    run_benchmark(measure_append, plan, measurements=plan.measurements, out=out, as_json=as_json)


@bench_app.command("confirm")
def confirm_command(
    *,
    rounds: Rounds = "3",
    callers: Annotated[str, typer.Option(metavar="N", help="Waiting workflows of each measurement.")] = "200",
    batch_size: Annotated[str, typer.Option(metavar="N", help="Requests in a batch.")] = "100",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Measure how fast waiting workflows get their receipts, by signal and by completion: from the drain's last stage,
    and from bare calls of the SDK.

    Ends with status 1 when not every caller got exactly one receipt.
    """
    plan = ConfirmPlan(
        rounds=parse_rounds(rounds),
        callers=parse_count("--callers", callers, 1, MOST_CALLERS),
        batch_size=parse_count("--batch-size", batch_size, 1, MOST_ITEMS),
    )
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.confirm_benchmark import measure_confirm
    run_benchmark(measure_confirm, plan, measurements=plan.measurements, out=out, as_json=as_json)


@bench_app.command("partitions")
def partitions_command(
    *,
    database: OneDatabase = BOTH,
    rounds: Rounds = "3",
    requests: Annotated[str, typer.Option(metavar="N", help="Requests in all streams together, about.")] = "20000",
    batch_size: Annotated[str, typer.Option(metavar="N", help="Requests in a batch.")] = "100",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Measure what several partitions are worth that one process drains into one database: rows per second of 2, 4 and
    8 together, by those of one alone, and how evenly they get on.

    Ends with status 1 when not exactly the records of the streams were written.
    """
    most = max(COUNTS)
    plan = PartitionPlan(
        databases=tuple(one.value for one in parse_databases(database)),
        rounds=parse_rounds(rounds),
        requests=parse_count("--requests", requests, most, MOST_REQUESTS) // most * most,
        batch_size=parse_count("--batch-size", batch_size, 1, MOST_ITEMS),
    )
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.partition_benchmark import measure_partitions
    run_benchmark(measure_partitions, plan, measurements=plan.measurements, out=out, as_json=as_json)


bench_app.command("memory")(memory_command)
bench_app.command("recovery")(recovery_command)
bench_app.command("latency")(latency_command)
bench_app.command("end-to-end")(end_to_end_command)
bench_app.command("capacity")(capacity_command)
bench_app.command("picture")(picture_command)
