"""Runs a comparison: every contender through every scenario, on servers of its own, saved after each run."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from write_batcher import ConfigurationError, QueueUnavailable, Settings, WriteBatcherError
from write_batcher.compare.arena import Progress, arena
from write_batcher.compare.contenders import BASELINE, design_of
from write_batcher.compare.machine import machine, package_versions, server_versions
from write_batcher.compare.resource_usage import Baseline, baseline
from write_batcher.compare.results import BROKEN_PROMISES, LIBRARY, Contender, Results, Run, Scenario
from write_batcher.compare.scale import Scale, Step, left_out, steps
from write_batcher.compare.scenarios import MEASURES, settings_of
from write_batcher.compare.scenarios.measurement import Measured
from write_batcher.compare.servers import Servers, embedded_servers, own_servers
from write_batcher.workers.embedded.local_stack import Database
from write_batcher.workers.embedded.worker_process import unless_ended

BASELINE_WORKFLOWS = 50  # at most; their histories are all alike
RUN_LIMIT = timedelta(minutes=15)  # callers give up after 2 minutes, so this is for what hangs


class CompareView(Progress, Protocol):
    """Where a comparison shows how far it is; as `Progress`, how far the step is."""

    def begin(self, what: str) -> None:
        """The next step begins."""

    def end(self, run: Run) -> None:
        """This has been measured."""


class Silent:
    """Shows nothing: of contenders that are measured at the same time, one shows how far all of them are."""

    def expect(self, total: int) -> None: ...

    def advance(self, number: int = 1) -> None: ...


class Comparison:
    """`own`: on the servers that `settings` and Temporal's variables name, instead of embedded ones."""

    def __init__(self, scale: Scale, settings: Settings, folder: Path, view: CompareView, *, own: bool = False) -> None:
        self._scale = scale
        self._settings = settings
        self._folder = folder
        self._view = view
        self._own = own
        self._began = time.monotonic()
        self._baselines: list[dict[str, float | None]] = []
        self.results = Results(
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=0.0,
            machine=machine(),
            versions=package_versions(),
            settings=self._common(),
            runs=[],
        )

    async def run(self) -> Results:
        """All steps. A run that fails is kept with a note on why; the others go on. Raises ConfigurationError."""
        known: Baseline | None = None
        round_of_baseline = -1
        for step in steps(self._scale):
            if known is None or step.round != round_of_baseline:
                known, round_of_baseline = await self._baseline(step), step.round
            self._view.begin(str(step))
            runs = await asyncio.gather(*(self._measure(step, contender, known) for contender in step.contenders))
            for run in runs:
                self._view.end(run)
            self._save(list(runs))
        return self.results

    async def _baseline(self, step: Step) -> Baseline:
        """Once per round. Raises what an arena raises: without it nothing can be measured."""
        self._view.begin("baseline: the same workflows without a write")
        async with self._servers(BASELINE, self._settings, "sqlite") as servers:
            found = await self._measured_baseline(servers)
        self._baselines.append({"round": step.round, **asdict(found)})
        self._save([])
        return found

    async def _measured_baseline(self, servers: Servers) -> Baseline:
        async with arena(BASELINE, servers, self._view) as one:
            workflows = min(self._scale.workflows, BASELINE_WORKFLOWS)
            return await unless_ended(one.workers, baseline(one, workflows))

    async def _measure(self, step: Step, contender: Contender, known: Baseline) -> Run:
        try:
            async with asyncio.timeout(RUN_LIMIT.total_seconds()):
                measured = await self._measured(step, contender, known)
        except Exception as error:
            if not _may_happen(error):
                raise
            measured = Measured(figures={}, notes=[f"not measured: {type(error).__name__}: {error}"])
        return Run(
            scenario=step.scenario,
            contender=contender,
            database=step.database,
            round=step.round,
            figures=measured.figures,
            samples=measured.samples,
            notes=measured.notes,
        )

    async def _measured(self, step: Step, contender: Contender, known: Baseline) -> Measured:
        settings = settings_of(step.scenario, self._settings, self._scale)
        async with self._servers(contender, settings, step.database) as servers:
            uses_redis = design_of(contender).uses_redis
            self._versions(await server_versions(servers, step.database, uses_redis=uses_redis))
            progress = self._view if contender is step.contenders[0] else Silent()
            async with arena(contender, servers, progress) as one:
                measured = await unless_ended(one.workers, MEASURES[step.scenario](one, self._scale, known))
                return replace(measured, notes=[*measured.notes, *one.worker_notes()])

    @asynccontextmanager
    async def _servers(self, contender: str, settings: Settings, database: Database) -> AsyncIterator[Servers]:
        design = design_of(contender)
        settings = design.settings(settings)
        if not self._own:
            async with embedded_servers(settings, database, connection_limit=self._scale.connection_limit) as servers:
                yield servers
            return
        # A queue of its own, or a run would find the batcher and the backlog of the one before it.
        queue = f"compare-{secrets.token_hex(4)}"
        names = {"queue": queue, "batcher_task_queue": f"{queue}-batcher", "main_task_queue": f"{queue}-main"}
        async with own_servers(settings.model_copy(update=names), uses_redis=design.uses_redis) as servers:
            try:
                yield servers
            finally:
                with contextlib.suppress(RPCError, QueueUnavailable, TimeoutError):  # what a run has shown, stands
                    await design.clean_up(servers.client, servers.settings)

    def _versions(self, found: dict[str, str]) -> None:
        self.results = replace(self.results, versions=self.results.versions | found)

    def _save(self, runs: list[Run]) -> None:
        self.results = replace(
            self.results,
            seconds=round(time.monotonic() - self._began, 3),
            settings=self._common(),
            runs=[*self.results.runs, *runs],
        )
        if self.results.runs:  # who is interrupted before can use the folder again
            self.results.save(self._folder)

    def _common(self) -> dict[str, Any]:
        scale = self._scale
        in_crash = settings_of(Scenario.CRASH, self._settings, scale)
        in_poison = settings_of(Scenario.POISON, self._settings, scale)
        return {
            "seed": scale.seed,
            "workflows": scale.workflows,
            "requests": scale.requests,
            "rounds": scale.rounds,
            "max_items": scale.max_items,
            "max_wait_s": scale.max_wait.total_seconds(),
            "confirm_timeout_s": self._settings.confirm_timeout.total_seconds(),
            "crash_max_items": in_crash.max_items,
            "poison_confirm_timeout_s": in_poison.confirm_timeout.total_seconds(),
            "connection_limit": None if self._own else scale.connection_limit,
            "servers": "own" if self._own else "embedded: a Temporal dev server in memory, fresh for each run",
            "baseline": self._baselines,
            "per_write": (
                "actions, events and bytes per write are those of the write alone: what the same workflows cost "
                "without it, measured once per round as the baseline, is subtracted; bytes include that the workflows "
                "of signal and queue have larger arguments; processor time is all that a workflow takes, without "
                "PostgreSQL's"
            ),
            "left_out": left_out(scale),
        }


def _may_happen(error: Exception) -> bool:
    """To a run, without being a defect of the comparison; a wrong setting is wrong for all runs. A TimeoutError is an
    OSError.
    """
    if isinstance(error, ExceptionGroup):
        return all(isinstance(one, Exception) and _may_happen(one) for one in error.exceptions)
    kinds = (WriteBatcherError, RPCError, SQLAlchemyError, OSError)
    return isinstance(error, kinds) and not isinstance(error, ConfigurationError)


def unsafe_writes(results: Results) -> list[Run]:
    """The runs in which this library broke a promise: lost a row, wrote one twice, or failed who had written."""
    return [
        run
        for run in results.runs
        if run.contender in LIBRARY and any(run.figures.get(name) for name in BROKEN_PROMISES)
    ]
