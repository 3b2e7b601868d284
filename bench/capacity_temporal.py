"""What one write costs in Temporal and in the workers around it, by the mode of confirmation."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from write_batcher.bench.capacity_others import OTHER_CORES, OtherPrograms, quiet_median
from write_batcher.bench.drain_plan import Kind
from write_batcher.bench.duel_figures import Readings
from write_batcher.bench.sample import Servers
from write_batcher.bench.turns import Measure, Measured, take_turns
from write_batcher.bench.workflow_benchmark import MILLISECONDS, MOST_CONNECTIONS
from write_batcher.compare.arena import Arena, arena
from write_batcher.compare.audit import CallerRows, audit
from write_batcher.compare.comparison import NoProgress
from write_batcher.compare.contenders import BASELINE
from write_batcher.compare.cpu import cpu_seconds
from write_batcher.compare.machine import server_versions
from write_batcher.compare.results import Contender
from write_batcher.compare.servers import embedded_servers
from write_batcher.config import Settings
from write_batcher.errors import WrongWork
from write_batcher.models import ConfirmBy, batcher_task_queue
from write_batcher.workers.embedded.worker_process import while_alive

# Batches close by their age alone, long after the callers have begun to wait, as they do in production: a receipt that
# comes at once would save its caller the timer, which is an action.
MAX_WAIT, MAX_ITEMS = timedelta(seconds=2), 10_000
MAIN_WORKER = 0  # of an arena's workers: it runs the callers
ROWS_WITHIN = timedelta(seconds=30)  # of the last caller's end: with `none` nobody waits for them
POLL_EVERY = timedelta(milliseconds=100)

# The names of figures, those of one workflow, are fields of `TemporalCosts`.
SERVER_CPU, CALLER_CPU, ACTIONS, EVENTS = "server_cpu_ms", "caller_cpu_ms", "actions", "events"

KIND: Kind = "sqlite"  # of the database: Temporal does not know it


async def measure_temporal(
    rounds: int, workflows: int, measured: Measured, versions: dict[str, str]
) -> dict[ConfirmBy, Readings]:
    """Measure what a workflow with one write uses beyond the same workflow without it: `SERVER_CPU`, `CALLER_CPU`,
    `ACTIONS` and `EVENTS`, medians of the quiet rounds. All workflows of a measurement are started at once. Add the
    versions of the servers to `versions`.

    Raises what `arena` and `Server.start` raise, and `WrongWork` when a caller fails or has another number of rows than
    one.
    """
    contestants: dict[str, Measure] = {
        BASELINE: partial(_measure, BASELINE, ConfirmBy.NONE, workflows, versions),
        **{mode.value: partial(_measure, Contender.QUEUE, mode, workflows, versions) for mode in ConfirmBy},
    }
    found = await take_turns(contestants, rounds=rounds, shown=SERVER_CPU, measured=measured)
    return {mode: _beyond(found[BASELINE], found[mode.value], mode) for mode in ConfirmBy}


def _beyond(without: Sequence[Readings], with_write: Sequence[Readings], mode: ConfirmBy) -> Readings:
    beyond = {
        figure: quiet_median(with_write, figure) - quiet_median(without, figure)
        for figure in (SERVER_CPU, CALLER_CPU, ACTIONS, EVENTS)
    }
    if lost := [figure for figure, amount in beyond.items() if amount <= 0]:
        raise WrongWork(
            f"With {mode}, workflows with a write and without one differ by {beyond[lost[0]]:.3g} in {lost[0]}, which "
            "must be above 0: measure again while the machine does nothing else, with more --rounds and --workflows."
        )
    return beyond


async def _measure(contender: str, mode: ConfirmBy, workflows: int, versions: dict[str, str]) -> Readings:
    writes = contender != BASELINE
    async with embedded_servers(_settings(mode), KIND, connection_limit=MOST_CONNECTIONS) as servers:
        versions.update(await server_versions(servers, KIND, uses_redis=writes))
        async with arena(contender, servers, NoProgress()) as opened:
            return await while_alive(opened.workers, _run(opened, workflows, writes=writes))


async def _run(opened: Arena, workflows: int, *, writes: bool) -> Readings:
    orders = opened.orders(workflows)
    actions_before = await opened.servers.actions() or 0
    others = OtherPrograms.begin(_pids(opened))
    server_before, caller_before = _server_cpu_s(opened), _caller_cpu_s(opened)
    outcomes = await opened.run_callers(orders)
    server_s, caller_s = _server_cpu_s(opened) - server_before, _caller_cpu_s(opened) - caller_before
    other_cores = others.cores()
    async with opened.rows() as rows:
        expected = workflows if writes else 0
        await _wait_for(rows, expected)
        found = audit(outcomes, await rows.by_workflow())
    if (found.completed, found.rows, found.written) != (workflows, expected, expected):
        raise WrongWork(
            f"Of {workflows} callers of {opened.contender}, {found.completed} completed and {found.written} have rows, "
            f"{found.rows} altogether; expected were {expected}. {' '.join(found.notes())}"
        )
    actions = (await opened.servers.actions() or 0) - actions_before
    history = await opened.callers_history_size(workflows)
    return {
        SERVER_CPU: server_s / workflows * MILLISECONDS,
        CALLER_CPU: caller_s / workflows * MILLISECONDS,
        ACTIONS: actions / workflows,
        EVENTS: history.events / workflows,
        OTHER_CORES: other_cores,
    }


async def _wait_for(rows: CallerRows, expected: int) -> None:
    """With `none` no caller waits for its row."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + ROWS_WITHIN.total_seconds()
    while (found := await rows.count()) < expected:
        if clock() > deadline:
            raise WrongWork(
                f"{found} rows were written within {ROWS_WITHIN.total_seconds():g} s, expected were {expected}."
            )
        await asyncio.sleep(POLL_EVERY.total_seconds())


def _pids(opened: Arena) -> Servers:
    """All that take part, this process aside."""
    servers = opened.servers.server_pids() or []
    return {str(pid): pid for pid in (*servers, *(worker.pid for worker in opened.workers))}


def _server_cpu_s(opened: Arena) -> float:
    stack = opened.servers.stack
    assert stack is not None  # noqa: S101 - the servers are embedded
    return cpu_seconds([stack.temporal.pid])


def _caller_cpu_s(opened: Arena) -> float:
    return cpu_seconds([opened.workers[MAIN_WORKER].pid])


def _settings(mode: ConfirmBy) -> Settings:
    # The defaults, without looking at the environment.
    queue = "bench"
    return Settings.model_construct(
        queue=queue,
        batcher_task_queue=batcher_task_queue(queue),
        max_wait=MAX_WAIT,
        max_items=MAX_ITEMS,
        confirm_by=mode,
        log_format="json",
    )
