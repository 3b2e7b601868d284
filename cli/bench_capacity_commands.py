"""The command `write-batcher bench capacity`: what a load needs, what a write costs, and whether the model is right."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from write_batcher.bench.capacity_costs import CapacityCosts, load_costs
from write_batcher.bench.capacity_plan import (
    COST_BATCH_SIZES,
    SHARED_BY_ALL,
    CapacityDemand,
    CheckPlan,
    CostsPlan,
)
from write_batcher.cli.bench_options import (
    EXTRAS,
    MOST_CALLERS,
    MOST_ITEMS,
    MOST_REQUESTS,
    WHAT,
    Out,
    Rounds,
    make_folder,
    parse_count,
    parse_rounds,
    run_benchmark,
)
from write_batcher.cli.compare_commands import parse_names
from write_batcher.cli.console import say
from write_batcher.cli.extras import needing
from write_batcher.cli.options import ResultAsJson
from write_batcher.compare.report.prices import LIST_PRICE
from write_batcher.config import parse_duration
from write_batcher.errors import ConfigurationError
from write_batcher.models import MAX_REQUEST_AGE, ConfirmBy

MOST_WRITES_PER_S = 10_000_000
MOST_RECORD_BYTES = 256 * 1024  # the default of the setting `max_request_bytes`
MOST_CORES = 1_024
MOST_BYTES = 10**16  # of memory or disk
MOST_USD = 10_000.0
SHORTEST_WAIT, LONGEST_WAIT = timedelta(milliseconds=1), timedelta(days=1)
LONGEST_WINDOW = timedelta(days=3650)
MODES = "--writes-per-second N[,N...], --measure and --check"

Price = Annotated[
    str,
    typer.Option(
        metavar="USD",
        help=f"Of Temporal Cloud. The default is the list price of the first actions of a month, "
        f"{LIST_PRICE.source}, read in {LIST_PRICE.read}.",
    ),
]


def capacity_command(
    *,
    writes_per_second: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="The loads to plan for, a column each.")
    ] = None,
    record_bytes: Annotated[str, typer.Option(metavar="N", help="Mean size of a record as JSON.")] = "400",
    confirm_by: Annotated[str, typer.Option(metavar="MODE", help=f"{', '.join(ConfirmBy)}.")] = ConfirmBy.SIGNAL,
    batch_size: Annotated[str, typer.Option(metavar="N", help="Most requests in a batch.")] = "100",
    max_wait: Annotated[
        str, typer.Option(metavar="DURATION", help="Age of the oldest request at which a batch closes.")
    ] = "20s",
    outage: Annotated[
        str, typer.Option(metavar="DURATION", help="For how long writes must be able to wait for the database.")
    ] = "10m",
    deduplication_window: Annotated[
        str, typer.Option(metavar="DURATION", help="For how long a request with the same id is not written again.")
    ] = "7d",
    cores: Annotated[
        str, typer.Option(metavar="N", help="Cores of one database server, and of one Temporal server.")
    ] = "16",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of one Redis server.")] = "64GB",
    disk: Annotated[str, typer.Option(metavar="SIZE", help="Disk of one database server.")] = "16TB",
    price_per_million_actions: Price = f"{LIST_PRICE.usd_per_million_actions:g}",
    costs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Costs to compute from, as --measure makes them (default: those of ours)."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the costs on this machine, and plan nothing.")] = (
        False
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Predict how fast drains are on this machine, and measure it.")
    ] = False,
    rounds: Rounds = "3",
    requests: Annotated[
        str, typer.Option(metavar="N", help="Requests in the streams of each measured drain, about.")
    ] = "40000",
    workflows: Annotated[
        str, typer.Option(metavar="N", help="Workflows in each measurement of Temporal, by --measure.")
    ] = "200",
    out: Out = None,
    as_json: ResultAsJson = False,
) -> None:
    """Plan what a load needs: partitions, worker processes, Redis, database, write ledger, Temporal and its price; and
    what is full first. Nothing is started: it is computed from costs that were measured before.

    With --measure, the costs are measured instead, and with --out DIR saved there as a file for --costs. With --check,
    the model is checked: the costs of one partition are measured, and rows per second of 1, 2, 4 and 8 computed from
    them and measured. That ends with status 1 when one deviates by more than 25 %.
    """
    if sum((writes_per_second is not None, measure, check)) != 1:
        raise ConfigurationError(f"Options {MODES} are three ways to call this command: give one of them.")
    if writes_per_second is not None:
        demand = CapacityDemand(
            writes_per_s=0,
            record_bytes=parse_count("--record-bytes", record_bytes, 1, MOST_RECORD_BYTES),
            confirm_by=parse_names(ConfirmBy, [confirm_by], "mode of confirmation")[0],
            batch_size=parse_count("--batch-size", batch_size, 1, MOST_ITEMS),
            max_wait_s=_parse_seconds("--max-wait", max_wait, SHORTEST_WAIT, LONGEST_WAIT),
            outage_s=_parse_seconds("--outage", outage, timedelta(0), MAX_REQUEST_AGE),
            deduplication_window_s=_parse_seconds(
                "--deduplication-window", deduplication_window, SHORTEST_WAIT, LONGEST_WINDOW
            ),
            cores=parse_count("--cores", cores, 1, MOST_CORES),
            memory_bytes=_parse_size("--memory", memory),
            disk_bytes=_parse_size("--disk", disk),
            usd_per_million_actions=_parse_usd("--price-per-million-actions", price_per_million_actions),
        )
        loads = [
            parse_count("--writes-per-second", load, 1, MOST_WRITES_PER_S) for load in writes_per_second.split(",")
        ]
        _plan([replace(demand, writes_per_s=load) for load in loads], costs, out=out, as_json=as_json)
    elif measure:
        _measure(parse_rounds(rounds), requests, workflows, out=out, as_json=as_json)
    else:
        _check(parse_rounds(rounds), requests, out=out, as_json=as_json)


def _plan(demands: list[CapacityDemand], file: Path | None, *, out: Path | None, as_json: bool) -> None:
    from write_batcher.bench.capacity_model import CapacityPlans, plan_capacity
    from write_batcher.cli.bench_capacity_view import plans_as_text

    costs = load_costs(file)
    make_folder(out)
    plans = CapacityPlans(plans=tuple(plan_capacity(demand, costs) for demand in demands), costs=costs)
    if out is not None:
        plans.save(out)
    say(plans.as_json() if as_json else plans_as_text(plans))


def _measure(rounds: int, requests: str, workflows: str, *, out: Path | None, as_json: bool) -> None:
    largest = max(COST_BATCH_SIZES)
    plan = CostsPlan(
        rounds=rounds,
        requests=parse_count("--requests", requests, largest, MOST_REQUESTS) // largest * largest,
        workflows=parse_count("--workflows", workflows, 1, MOST_CALLERS),
    )
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.capacity_benchmark import measure_costs, measurements
    run_benchmark(
        measure_costs,
        plan,
        measurements=measurements(plan),
        out=out,
        as_json=as_json,
        as_text=CapacityCosts.as_file,
    )


def _check(rounds: int, requests: str, *, out: Path | None, as_json: bool) -> None:
    plan = CheckPlan(
        rounds=rounds,
        requests=parse_count("--requests", requests, SHARED_BY_ALL, MOST_REQUESTS) // SHARED_BY_ALL * SHARED_BY_ALL,
    )
    with needing(EXTRAS, WHAT):
        from write_batcher.bench.capacity_check import check_capacity
    from write_batcher.cli.bench_capacity_view import check_as_text

    found = run_benchmark(
        check_capacity, plan, measurements=plan.measurements, out=out, as_json=as_json, as_text=check_as_text
    )
    found.raise_if_wrong()


def _parse_seconds(option: str, text: str, lowest: timedelta, highest: timedelta) -> float:
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise ConfigurationError(f"Option {option} {error}.") from None
    if not lowest <= duration <= highest:
        limits = f"{lowest.total_seconds():g}s to {highest.total_seconds():g}s"
        raise ConfigurationError(f"Option {option} {text} is outside of {limits}: give one in between.")
    return duration.total_seconds()


def _parse_size(option: str, text: str) -> int:
    try:
        if text.strip().isdigit():
            raise ValueError("a size without a unit would be one in bytes")
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except (ValidationError, ValueError):
        raise ConfigurationError(
            f"Option {option} {text!r} is not a size: write a number and a unit, such as 64GB or 16TB."
        ) from None
    if not 1 <= size <= MOST_BYTES:
        raise ConfigurationError(
            f"Option {option} {text} is outside of 1B to {MOST_BYTES // 10**12:,}TB: give one in between."
        )
    return size


def _parse_usd(option: str, text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        raise ConfigurationError(
            f"Option {option} {text!r} is not a number: give US dollars, from 0 to {MOST_USD:g}."
        ) from None
    if not 0 <= amount <= MOST_USD:  # nan is refused too
        raise ConfigurationError(f"Option {option} {text} is outside of 0 to {MOST_USD:g}: give US dollars in between.")
    return amount
