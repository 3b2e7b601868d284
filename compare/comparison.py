"""Runs a comparison: every contender through every scenario, saved after each step."""

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
from write_batcher.compare.resource_usage import Baseline, measure_baseline
from write_batcher.compare.results import BROKEN_PROMISES, LIBRARY, Contender, Results, Run, Scenario
from write_batcher.compare.scale import Scale, Step, left_out, steps
from write_batcher.compare.scenarios import MEASURE_OF, settings_of
from write_batcher.compare.scenarios.measurement import Measurement
from write_batcher.compare.servers import Servers, embedded_servers, existing_servers
from write_batcher.workers.embedded.local_stack import Database
from write_batcher.workers.embedded.worker_process import while_alive

DEFAULT_CONNECTIONS = 100  # of a PostgreSQL that nobody has configured
MAX_BASELINE_WORKFLOWS = 50  # enough: their histories are all alike
RUN_TIMEOUT = timedelta(minutes=15)  # for runs that hang: callers give up after 2 minutes


class CompareView(Progress, Protocol):
    """Where a comparison reports its progress. The methods of `Progress` report that of the current step."""

    def begin(self, what: str) -> None:
        """Announce the next step."""

    def end(self, run: Run) -> None:
        """Report the result of a run."""


class NoProgress:
    """Reports nothing: of contenders that are measured at the same time, one reports the progress of all."""

    def expect(self, total: int) -> None: ...

    def advance(self, number: int = 1) -> None: ...


class Comparison:
    """A comparison that saves its results in `folder`, which must exist.

    It runs on fresh embedded servers, or with `on_existing_servers` on those that `settings` and the `TEMPORAL_*`
    variables name.
    """

    def __init__(
        self,
        scale: Scale,
        settings: Settings,
        folder: Path,
        view: CompareView,
        *,
        on_existing_servers: bool = False,
    ) -> None:
        self._scale = scale
        self._settings = settings
        self._folder = folder
        self._view = view
        self._on_existing_servers = on_existing_servers
        self._began = time.monotonic()
        self._baselines: list[dict[str, float | None]] = []
        self.results = Results(
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=0.0,
            machine=machine(),
            versions=package_versions(),
            settings=self._settings_to_record(),
            runs=[],
        )

    async def run(self) -> Results:
        """Run all steps and return the results. A run that fails is kept with a note that says why; the others go on.

        Raises `ConfigurationError` when a setting is wrong, because it is wrong for all runs, and what `arena` raises
        when the baseline cannot be measured.
        """
        baseline: Baseline | None = None
        round_of_baseline = -1
        for step in steps(self._scale):
            if baseline is None or step.round != round_of_baseline:
                baseline, round_of_baseline = await self._baseline(step), step.round
            self._view.begin(str(step))
            runs = await asyncio.gather(*(self._run(step, contender, baseline) for contender in step.contenders))
            for run in runs:
                self._view.end(run)
            self._save(list(runs))
        return self.results

    async def _baseline(self, step: Step) -> Baseline:
        self._view.begin("baseline: the same workflows without a write")
        async with (
            self._servers(BASELINE, self._settings, "sqlite") as servers,
            arena(BASELINE, servers, self._view) as opened,
        ):
            workflows = min(self._scale.workflows, MAX_BASELINE_WORKFLOWS)
            found = await while_alive(opened.workers, measure_baseline(opened, workflows))
        self._baselines.append({"round": step.round, **asdict(found)})
        self._save([])
        return found

    async def _run(self, step: Step, contender: Contender, baseline: Baseline) -> Run:
        try:
            async with asyncio.timeout(RUN_TIMEOUT.total_seconds()):
                measurement = await self._measure(step, contender, baseline)
        except Exception as error:
            if not _may_fail_a_run(error):
                raise
            measurement = Measurement(figures={}, notes=[f"not measured: {type(error).__name__}: {error}"])
        return Run(
            scenario=step.scenario,
            contender=contender,
            database=step.database,
            round=step.round,
            figures=measurement.figures,
            samples=measurement.samples,
            notes=measurement.notes,
        )

    async def _measure(self, step: Step, contender: Contender, baseline: Baseline) -> Measurement:
        settings = settings_of(step.scenario, self._settings, self._scale)
        async with self._servers(contender, settings, step.database, step.scenario) as servers:
            uses_redis = design_of(contender).uses_redis
            self._add_versions(await server_versions(servers, step.database, uses_redis=uses_redis))
            progress = self._view if contender is step.contenders[0] else NoProgress()
            async with arena(contender, servers, progress) as opened:
                measure = MEASURE_OF[step.scenario]
                measurement = await while_alive(opened.workers, measure(opened, self._scale, baseline))
                return replace(measurement, notes=[*measurement.notes, *opened.worker_notes()])

    @asynccontextmanager
    async def _servers(
        self, contender: str, settings: Settings, database: Database, scenario: Scenario | None = None
    ) -> AsyncIterator[Servers]:
        design = design_of(contender)
        settings = design.settings(settings)
        connection_limit = DEFAULT_CONNECTIONS if scenario is Scenario.PRESSURE else self._scale.connection_limit
        if not self._on_existing_servers:
            async with embedded_servers(settings, database, connection_limit=connection_limit) as servers:
                yield servers
            return
        # Each run has its own queue, or it would find the batcher and the backlog of the run before it.
        queue = f"compare-{secrets.token_hex(4)}"
        names = {"queue": queue, "batcher_task_queue": f"{queue}-batcher", "main_task_queue": f"{queue}-main"}
        async with existing_servers(settings.model_copy(update=names), uses_redis=design.uses_redis) as servers:
            try:
                yield servers
            finally:
                # The measurement stands even if the cleaning up fails.
                with contextlib.suppress(RPCError, QueueUnavailable, TimeoutError):
                    await design.clean_up(servers.client, servers.settings)

    def _add_versions(self, found: dict[str, str]) -> None:
        self.results = replace(self.results, versions=self.results.versions | found)

    def _save(self, runs: list[Run]) -> None:
        self.results = replace(
            self.results,
            seconds=round(time.monotonic() - self._began, 3),
            settings=self._settings_to_record(),
            runs=[*self.results.runs, *runs],
        )
        if self.results.runs:  # until then an interruption leaves the folder empty, to be used again
            self.results.save(self._folder)

    def _settings_to_record(self) -> dict[str, Any]:
        scale = self._scale
        in_crash = settings_of(Scenario.CRASH, self._settings, scale)
        in_poison = settings_of(Scenario.POISON, self._settings, scale)
        is_embedded = not self._on_existing_servers
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
            "connection_limit": scale.connection_limit if is_embedded else None,
            "servers": "embedded: a Temporal dev server in memory, fresh for each run" if is_embedded else "own",
            "baseline": self._baselines,
            "per_write": (
                "actions, events and bytes per write are those of the write alone: what the same workflows cost "
                "without it, measured once per round as the baseline, is subtracted; bytes include that the workflows "
                "of signal and queue have larger arguments; CPU time is that of the whole workflow, without "
                "PostgreSQL's"
            ),
            "left_out": left_out(scale),
        }


def _may_fail_a_run(error: Exception) -> bool:
    """Whether `error` fails one run only. A defect of the comparison and a wrong setting end the whole comparison."""
    if isinstance(error, ExceptionGroup):
        return all(isinstance(one, Exception) and _may_fail_a_run(one) for one in error.exceptions)
    kinds = (WriteBatcherError, RPCError, SQLAlchemyError, OSError)  # a TimeoutError is an OSError
    return isinstance(error, kinds) and not isinstance(error, ConfigurationError)


def runs_with_broken_promises(results: Results) -> list[Run]:
    """Return the runs in which this library lost a row, wrote one twice, or failed a caller that had written."""
    return [
        run
        for run in results.runs
        if run.contender in LIBRARY and any(run.figures.get(name) for name in BROKEN_PROMISES)
    ]
