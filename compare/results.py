"""What a comparison measured, `results.json`: scenarios write it, and the report is drawn from it alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

VERSION = 1
FILE_NAME = "results.json"

# Producers that need more than this share of the time in which rows come set the pace, not the batcher.
PRODUCER_LIMITED_SHARE = 0.8


class Contender(StrEnum):
    """A design for getting many workflows' writes into one database."""

    DIRECT = "direct"
    """One activity, one connection and one transaction per write: what people do today."""
    DIRECT_POOLED = "direct-pooled"
    """The same with a pool of connections."""
    SIGNAL = "signal"
    """A batcher workflow fed by signals, in `signal_batcher/`."""
    QUEUE = "queue"
    """This library: Redis stream and drain, confirmation by signal."""
    QUEUE_COMPLETION = "queue-completion"
    """This library, confirmation by completing the caller's activity."""
    QUEUE_PACED = "queue-paced"
    """This library with a pace, confirmation by completing the caller's activity."""


# The contenders of this library promise that a write is made once, and that a caller that fails has not written.
LIBRARY = (Contender.QUEUE, Contender.QUEUE_COMPLETION, Contender.QUEUE_PACED)
BROKEN_PROMISES = ("lost", "duplicates", "failed_written")  # figures that must be 0 in every run of every scenario


class Scenario(StrEnum):
    """What contenders are put through, with the figures and samples of each run."""

    PRESSURE = "pressure"
    """Writes are offered at steady rates that grow step by step, whether the earlier ones are done or not, straight at
    the write path, without caller workflows. Beside it another application reads and updates single rows.

    Figures: `holds_up_to_per_s` (the highest rate at which 99 % were committed and the p99 was below a second),
    `quiet_p50_ms` (at the lowest rate), `busy_p99_ms bystander_busy_p99_ms` (at 1,000 writes/s),
    `bystander_worst_p99_ms errors duplicates`.
    Samples: `steps`: `{"offered_per_s", "offered", "committed", "achieved_per_s", "p50_ms", "p99_ms", "holds",
    "errors", "errors_by_kind", "bystander_p50_ms", "bystander_p99_ms", "bystander_failed", "connections",
    "transactions", "database_cpu_ms_per_write", "wal_bytes_per_write"}`, times from the offer to the commit; what is
    not committed counts as long as was waited for it. The last four are None for SQLite.
    """
    LOAD = "load"
    """Many workflows at once.

    Figures: `workflows completed failed rows duplicates lost failed_written` (`lost`: completed, but its row is
    missing; `failed_written`: failed, but its row is there),
    `seconds` from the first start to the last end, `writes_per_s`, `transactions connections_opened connections_peak
    database_errors`, `events_per_write bytes_per_write` (histories, the batcher's included), `actions_per_write`,
    `server_cpu_ms_per_write worker_cpu_ms_per_write`, `connection_limit` (None: unlimited). Events, bytes and actions
    are those of the write alone: what the same workflow costs without it, `settings["baseline"]`, is subtracted. CPU
    time is that of the whole workflow, in workers, Temporal and Redis; PostgreSQL's is not counted. None: existing
    servers do not tell.
    Samples: `latency_ms`, from submit to receipt of each completed workflow. Notes: how many failed, by error type.
    """
    GROWTH = "growth"
    """Writes keep coming while the history of the batcher is sampled.

    Figures: `writes duplicates lost max_events max_bytes continued_as_new` (`lost`: accepted, but no row came).
    Samples: `points`: `{"s", "writes", "events", "bytes", "run"}` of the batcher's current run, `run` counted from 0.
    """
    CEILING = "ceiling"
    """Producers push straight at one batcher, without caller workflows.

    Figures: `offered accepted refused rows duplicates lost seconds writes_per_s` (`lost`: accepted, but no row came),
    and `pushed_s`, the time until all were accepted or refused; see `is_limited_by_producers`.
    Samples: `points`: `{"s", "rows"}`. Notes: why requests were refused, if any were.
    """
    CRASH = "crash"
    """The process that writes is killed in the middle of a batch and started again.

    Figures: `workflows completed failed rows duplicates lost failed_written recovery_s` (from the kill to the next
    committed write), `killed_at_s restarted_at_s ended_at_s`. Samples: `points`: `{"s", "rows"}`. If no row is
    missing, the time from the kill to the last point is how long it took to catch up.
    """
    POISON = "poison"
    """Some records are bad.

    Figures: `workflows bad completed failed failed_good rows duplicates lost failed_written` (`failed_good`: callers
    that failed although their record was good).
    """
    IDLE = "idle"
    """Nothing to do. Figures: `seconds actions events actions_per_day events_per_day`, the last two extrapolated.

    A drain of this library rests, and is started for a moment every six hours to tidy up. Here it rests for as much
    shorter as the measurement is shorter than a day, so that what it does in a day is counted.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One contender in one scenario, once."""

    scenario: Scenario
    contender: Contender
    database: str
    """`sqlite` or `postgresql`."""
    round: int
    figures: dict[str, float | None]
    """Empty when the run could not be measured; the notes say why."""
    samples: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences for people: what failed, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A whole comparison."""

    started_at: str
    """ISO 8601, UTC."""
    seconds: float
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    """What was the same for all: `seed workflows requests rounds max_items max_wait_s confirm_timeout_s crash_max_items
    poison_confirm_timeout_s connection_limit servers`; `baseline`, for each round the `actions events bytes` of a
    workflow that writes nothing; and sentences for people: `per_write`, and `left_out`, what was not run because it
    would show nothing.
    """
    runs: list[Run]
    version: int = VERSION

    def save(self, folder: Path) -> Path:
        """Write `results.json` into `folder` and return its path."""
        path = folder / FILE_NAME
        # Replaced atomically: an interruption keeps the file that was saved before.
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return unfinished.replace(path)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `results.json` from `folder`.

        Raises `OSError` when it cannot be read, and `ValueError` when it is not a complete comparison of this version.
        """
        data = json.loads((folder / FILE_NAME).read_text())
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ValueError(f"not a comparison of version {VERSION}")
        try:
            runs = [
                Run(**{**run, "scenario": Scenario(run["scenario"]), "contender": Contender(run["contender"])})
                for run in data.pop("runs")
            ]
            return cls(**data, runs=runs)
        except (KeyError, TypeError) as error:
            raise ValueError(f"incomplete: {error!r}") from error


def is_limited_by_producers(figures: Mapping[str, float | None]) -> bool:
    """Whether a run of `ceiling` shows how fast requests were pushed, and not how fast its batcher can write."""
    pushed_s, seconds = figures.get("pushed_s"), figures.get("seconds")
    return pushed_s is not None and seconds is not None and pushed_s > PRODUCER_LIMITED_SHARE * seconds
