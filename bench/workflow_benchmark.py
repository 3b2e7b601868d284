"""The benchmarks of whole workflows: this library beside one transaction per write, on servers and workers of their
own for each measurement.
"""

import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from temporalio.client import WorkflowFailureError

from write_batcher.bench.at_once import work_off
from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.drain_plan import Kind
from write_batcher.bench.duel_figures import Duel, Readings
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.surroundings import describe_machine, package_versions
from write_batcher.bench.turns import Measure, Measured, take_turns
from write_batcher.bench.workflow_plan import CONTESTANTS, OURS, Load, WorkflowPlan
from write_batcher.compare.arena import Arena, arena
from write_batcher.compare.audit import CallerOutcome, audit
from write_batcher.compare.comparison import NoProgress
from write_batcher.compare.contenders import design_of
from write_batcher.compare.contenders.design import Order
from write_batcher.compare.cpu import cpu_seconds
from write_batcher.compare.machine import server_versions
from write_batcher.compare.results import Contender
from write_batcher.compare.servers import embedded_servers
from write_batcher.config import Settings
from write_batcher.errors import WrongWork
from write_batcher.models import batcher_task_queue
from write_batcher.workers.embedded.local_stack import data_folder
from write_batcher.workers.embedded.starter import root_failure
from write_batcher.workers.embedded.worker_process import while_alive

MAX_WAIT = timedelta(milliseconds=50)
MOST_CONNECTIONS = 200  # of PostgreSQL: more than a worker of `direct` opens
MILLISECONDS = 1000  # in a second
COMPARED = {Load.LATENCY: "p50_ms", Load.END_TO_END: "writes_per_s"}
NOTES = (
    "p50, p99: from the submit of a write to its outcome, in the workflow, which has two more activities.",
    "CPU: of all workers, Temporal, Redis and PostgreSQL, for the whole workflow.",
    "direct: one activity, one connection and one transaction per write.",
)


async def measure_workflows(plan: WorkflowPlan, measured: Measured) -> BenchResults:
    """Measure each contestant on fresh servers of our own, in a temporary folder.

    Raises what `arena` and `Server.start` raise, and `WrongWork` when a caller fails, or has another number of rows
    than one.
    """
    occasion = Occasion()
    with data_folder(None) as folder:
        machine = describe_machine(folder)
    versions = package_versions()
    contestants: dict[str, Measure] = {
        _name(kind, contender): partial(_measure, plan, kind, contender, versions)
        for kind in plan.databases
        for contender in CONTESTANTS
    }
    compared = COMPARED[plan.load]
    found = await take_turns(contestants, rounds=plan.rounds, shown=compared, measured=measured)
    settings = {"workflows": plan.workflows, "max_wait_ms": MAX_WAIT // timedelta(milliseconds=1)}
    return occasion.results(
        plan.load,
        rounds=plan.rounds,
        settings=settings | ({"at_once": plan.at_once} if plan.load is Load.LATENCY else {}),
        grouped_by="confirmed",
        groups={
            f"{kind}, {mode}": Duel.of(
                found[_name(kind, contender)],
                {Contender.DIRECT.value: found[_name(kind, Contender.DIRECT)]},
                compared=compared,
                lower_is_better=plan.load is Load.LATENCY,
            )
            for kind in plan.databases
            for mode, contender in OURS.items()
        },
        notes=NOTES,
        machine=machine,
        versions=versions,
    )


async def _measure(plan: WorkflowPlan, kind: Kind, contender: Contender, versions: dict[str, str]) -> Readings:
    """Measure once, and add the versions of the servers to `versions`."""
    settings = design_of(contender).settings(_settings())
    async with embedded_servers(settings, kind, connection_limit=MOST_CONNECTIONS) as servers:
        versions.update(await server_versions(servers, kind, uses_redis=design_of(contender).uses_redis))
        async with arena(contender, servers, NoProgress()) as opened:
            return await while_alive(opened.workers, _run(plan, opened))


async def _run(plan: WorkflowPlan, opened: Arena) -> Readings:
    orders = opened.orders(plan.workflows)
    cpu_before, began = _cpu_s(opened), time.perf_counter()
    if plan.load is Load.LATENCY:
        outcomes = await _run_few_at_once(opened, orders, plan.at_once)
    else:
        outcomes = await opened.run_callers(orders)
    seconds, cpu_s = time.perf_counter() - began, _cpu_s(opened) - cpu_before
    async with opened.rows() as rows:
        found = audit(outcomes, await rows.by_workflow())
    if found.completed != len(orders) or found.rows != len(orders) or found.written != len(orders):
        raise WrongWork(
            f"Of {len(orders)} callers of {opened.contender}, {found.completed} completed and {found.written} have "
            f"rows, {found.rows} altogether. {' '.join(found.notes())}"
        )
    latencies = [outcome.latency_ms for outcome in outcomes if outcome.latency_ms is not None]
    return {
        "writes_per_s": len(orders) / seconds,
        "p50_ms": statistics.median(latencies),
        "p99_ms": _p99(latencies),
        "cpu_ms_per_write": cpu_s / len(orders) * MILLISECONDS,
    }


async def _run_few_at_once(opened: Arena, orders: Sequence[Order], at_once: int) -> list[CallerOutcome]:
    outcomes: list[CallerOutcome] = []

    async def call(order: Order) -> None:
        handle = await opened.design.start(opened.client, opened.settings, order)
        try:
            latency_ms = opened.design.latency_ms(await handle.result())
        except WorkflowFailureError as error:
            outcomes.append(CallerOutcome(order=order, failure=root_failure(error)))
        else:
            outcomes.append(CallerOutcome(order=order, latency_ms=latency_ms))

    await work_off(orders, call, tasks=at_once)
    return outcomes


def _p99(latencies: Sequence[int]) -> float:
    if len(latencies) == 1:
        return latencies[0]
    return statistics.quantiles(latencies, n=100, method="inclusive")[-1]


def _cpu_s(opened: Arena) -> float:
    """CPU seconds of everything that takes part, except this process, which stands for whoever starts workflows."""
    stack = opened.servers.stack
    database = [] if stack is None or stack.postgres is None else [stack.postgres.pid]
    return opened.worker_cpu_s() + (opened.server_cpu_s() or 0.0) + cpu_seconds(database)


def _settings() -> Settings:
    # The defaults, without looking at the environment.
    queue = "bench"
    return Settings.model_construct(
        queue=queue, batcher_task_queue=batcher_task_queue(queue), max_wait=MAX_WAIT, log_format="json"
    )


def _name(kind: Kind, contender: Contender) -> str:
    return f"{kind}, {contender}"
