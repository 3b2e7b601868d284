"""Made-up results of a comparison, for tests of the report: not a measurement."""

import math
import random
from collections.abc import Sequence
from typing import Any

from write_batcher.compare.results import Contender, Results, Run, Scenario
from write_batcher.compare.scale import LEFT_OUT, ON_EVERY_DATABASE

WORKFLOWS = 400
CONNECTION_LIMIT = 20
ACTIONS = {
    Contender.DIRECT: 1.0,
    Contender.SIGNAL: 3.05,
    Contender.QUEUE: 3.02,
    Contender.QUEUE_COMPLETION: 1.07,
    Contender.DIRECT_POOLED: 1.0,
    Contender.QUEUE_PACED: 1.07,
}
EVENTS = {
    Contender.DIRECT: 6.0,
    Contender.SIGNAL: 14.2,
    Contender.QUEUE: 12.1,
    Contender.QUEUE_COMPLETION: 6.1,
    Contender.DIRECT_POOLED: 6.0,
    Contender.QUEUE_PACED: 6.1,
}
LATENCY_MS = {
    Contender.DIRECT: 900,
    Contender.SIGNAL: 2600,
    Contender.QUEUE: 1500,
    Contender.QUEUE_COMPLETION: 1300,
    Contender.DIRECT_POOLED: 880,
    Contender.QUEUE_PACED: 240,
}
WRITES_PER_S = {
    Contender.DIRECT: 60,
    Contender.SIGNAL: 190,
    Contender.QUEUE: 2900,
    Contender.QUEUE_COMPLETION: 3000,
    Contender.DIRECT_POOLED: 60,
    Contender.QUEUE_PACED: 3000,
}
DOWN_S = {
    Contender.DIRECT: 1.0,
    Contender.SIGNAL: 4.0,
    Contender.QUEUE: 2.4,
    Contender.QUEUE_COMPLETION: 2.2,
    Contender.DIRECT_POOLED: 1.0,
    Contender.QUEUE_PACED: 2.2,
}
HOLDS_UP_TO = {
    Contender.DIRECT: 50,
    Contender.DIRECT_POOLED: 1_000,
    Contender.SIGNAL: 200,
    Contender.QUEUE: 5_000,
    Contender.QUEUE_PACED: 5_000,
}
IDLE_ACTIONS = {
    Contender.DIRECT: 0,
    Contender.SIGNAL: 24,
    Contender.QUEUE: 17_300,
    Contender.QUEUE_COMPLETION: 17_280,
    Contender.DIRECT_POOLED: 0,
    Contender.QUEUE_PACED: 30,
}


def sample_results(
    *,
    rounds: int = 3,
    scenarios: Sequence[Scenario] = tuple(Scenario),
    contenders: Sequence[Contender] = tuple(Contender),
    databases: Sequence[str] = ("sqlite", "postgresql"),
    seed: int = 7,
) -> Results:
    """Return plausible results; the same arguments give the same results."""
    chance = random.Random(seed)
    runs = [
        _run(scenario, contender, database, number, chance)
        for scenario in scenarios
        for contender in contenders
        for database in (databases if scenario in ON_EVERY_DATABASE else databases[:1])
        for number in range(1, rounds + 1)
        if (scenario, contender) not in LEFT_OUT
    ]
    return Results(
        started_at="2026-03-04T05:06:07+00:00",
        seconds=1834.5,
        machine={"cpu": "a processor of the sample", "cores": "2", "memory": "8 GB", "system": "Linux"},
        versions={"python": "3.11", "temporalio": "1.35.0", "temporal server": "1.31", "sqlite": "3.45"},
        settings={"seed": seed, "workflows": WORKFLOWS, "rounds": rounds, "max_items": 100, "max_wait_s": 2.0},
        runs=runs,
    )


def run(scenario: Scenario, contender: Contender, *, database: str = "sqlite", round: int = 1, **figures: Any) -> Run:  # noqa: A002
    """Return a run with these figures; `samples` and `notes` among them become those of the run."""
    samples, notes = figures.pop("samples", {}), figures.pop("notes", [])
    return Run(
        scenario=scenario,
        contender=contender,
        database=database,
        round=round,
        figures=figures,
        samples=samples,
        notes=notes,
    )


def results_of(*runs: Run) -> Results:
    """Return a comparison that consists of these runs."""
    return Results(
        started_at="2026-03-04T05:06:07+00:00", seconds=12.0, machine={}, versions={}, settings={}, runs=list(runs)
    )


def _run(scenario: Scenario, contender: Contender, database: str, number: int, chance: random.Random) -> Run:
    make = {
        Scenario.PRESSURE: _pressure,
        Scenario.LOAD: _load,
        Scenario.GROWTH: _growth,
        Scenario.CEILING: _ceiling,
        Scenario.CRASH: _crash,
        Scenario.POISON: _poison,
        Scenario.IDLE: _idle,
    }[scenario]
    return run(scenario, contender, database=database, round=number, **make(contender, database, chance))


def _pressure(contender: Contender, database: str, chance: random.Random) -> dict[str, Any]:
    holds = HOLDS_UP_TO[contender]
    is_postgresql = database == "postgresql"
    steps = []
    for rate in (5, 50, 200, 1_000, 5_000, 20_000):
        load = rate / holds
        if load > 25:
            break
        waited = (15 if contender is Contender.DIRECT else 60) * max(1.0, load**2) * chance.uniform(0.9, 1.1)
        steps.append(
            {
                "offered_per_s": rate,
                "offered": rate * 4,
                "committed": rate * 4 if load <= 1 else rate,
                "achieved_per_s": min(rate, holds),
                "p50_ms": waited / 2,
                "p99_ms": waited,
                "holds": load <= 1,
                "errors": 0 if load <= 1 else rate,
                "errors_by_kind": {} if load <= 1 else {"too many connections": rate},
                "bystander_p50_ms": 2.0,
                "bystander_p99_ms": 5.0 * max(1.0, load),
                "bystander_failed": 0,
                "connections": 5 if is_postgresql else None,
                "transactions": rate * 1.0 if is_postgresql else None,
                "database_cpu_ms_per_write": 0.3 if is_postgresql else None,
                "wal_bytes_per_write": 800.0 if is_postgresql else None,
            }
        )
    return {
        "holds_up_to_per_s": holds,
        "quiet_p50_ms": steps[0]["p50_ms"],
        "busy_p99_ms": steps[3]["p99_ms"] if len(steps) > 3 else None,
        "bystander_busy_p99_ms": steps[3]["bystander_p99_ms"] if len(steps) > 3 else None,
        "bystander_worst_p99_ms": steps[-1]["bystander_p99_ms"],
        "errors": sum(step["errors"] for step in steps),
        "duplicates": 0,
        "samples": {"steps": steps},
    }


def _load(contender: Contender, database: str, chance: random.Random) -> dict[str, Any]:
    is_direct = contender is Contender.DIRECT
    failed = chance.randint(30, 70) if is_direct and database == "postgresql" else 0
    completed = WORKFLOWS - failed
    middle = LATENCY_MS[contender] * (1.3 if database == "postgresql" else 1.0)
    latency = [round(middle * chance.lognormvariate(0, 0.6 if is_direct else 0.35), 1) for _ in range(completed)]
    transactions = completed if is_direct else math.ceil(completed / chance.uniform(70, 100))
    seconds = round(chance.uniform(6, 9), 2)
    return {
        "workflows": WORKFLOWS,
        "completed": completed,
        "failed": failed,
        "rows": completed,
        "duplicates": 0,
        "lost": 0,
        "failed_written": 0,
        "seconds": seconds,
        "writes_per_s": round(completed / seconds, 1),
        "transactions": transactions,
        "connections_opened": completed + failed if is_direct else 2,
        "connections_peak": CONNECTION_LIMIT if is_direct else 1,
        "database_errors": failed * 3,
        "events_per_write": EVENTS[contender] + chance.uniform(0, 0.3),
        "bytes_per_write": EVENTS[contender] * 310,
        "actions_per_write": ACTIONS[contender] + chance.uniform(0, 0.05),
        "server_cpu_ms_per_write": EVENTS[contender] * chance.uniform(0.8, 1.0),
        "worker_cpu_ms_per_write": chance.uniform(4, 7),
        "connection_limit": CONNECTION_LIMIT,
        "samples": {"latency_ms": latency},
        "notes": [f"{failed} workflows failed: OperationalError (too many clients)"] if failed else [],
    }


def _growth(contender: Contender, _: str, chance: random.Random) -> dict[str, Any]:
    points = []
    run_number = events = 0
    for second in range(0, 121, 2):
        writes = second * 50
        if contender is Contender.SIGNAL:
            events += chance.randint(180, 240)
            if events > 4096:
                run_number, events = run_number + 1, 20
        else:
            events = 8 + second // 60
        points.append({"s": second, "writes": writes, "events": events, "bytes": events * 240, "run": run_number})
    return {
        "writes": points[-1]["writes"],
        "max_events": max(point["events"] for point in points),
        "max_bytes": max(point["bytes"] for point in points),
        "continued_as_new": run_number,
        "samples": {"points": points},
    }


def _ceiling(contender: Contender, _: str, chance: random.Random) -> dict[str, Any]:
    rate = WRITES_PER_S[contender] * chance.uniform(0.9, 1.1)
    is_signal = contender is Contender.SIGNAL
    points, rows = [], 0.0
    for second in range(31):
        points.append({"s": second, "rows": int(rows)})
        rows += rate * chance.uniform(0.8, 1.2) * (0.15 if is_signal and second > 20 else 1)
    written = points[-1]["rows"]
    return {
        "offered": written * (3 if is_signal else 1),
        "accepted": written,
        "refused": written * 2 if is_signal else 0,
        "rows": written,
        "duplicates": 0,
        "seconds": 30.0,
        "pushed_s": 12.0 if is_signal else 29.0,
        "writes_per_s": round(written / 30, 1),
        "samples": {"points": points},
        "notes": ["After 10,000 signals the server refused more: exceeded workflow execution limit"]
        if is_signal
        else [],
    }


def _crash(contender: Contender, _: str, chance: random.Random) -> dict[str, Any]:
    killed, restarted, ended = 8.0, 10.0, 25.0
    recovery = 2.0 + DOWN_S[contender] * chance.uniform(0.9, 1.2)
    duplicates = 2 if contender is Contender.DIRECT else 0
    points, rows = [], 0
    for half in range(int(ended * 2) + 1):
        second = half / 2
        points.append({"s": second, "rows": min(rows, WORKFLOWS) if second < ended else WORKFLOWS + duplicates})
        if second < killed or second >= killed + recovery:
            per_half_second = 9 if contender is Contender.DIRECT else 11
            rows += max(0, int(per_half_second * chance.uniform(0.6, 1.5)))
    return {
        "workflows": WORKFLOWS,
        "completed": WORKFLOWS,
        "failed": 0,
        "rows": WORKFLOWS + duplicates,
        "duplicates": duplicates,
        "lost": 0,
        "failed_written": 0,
        "recovery_s": round(recovery, 2),
        "killed_at_s": killed,
        "restarted_at_s": restarted,
        "ended_at_s": ended,
        "samples": {"points": points},
    }


def _poison(contender: Contender, _: str, __: random.Random) -> dict[str, Any]:
    bad = 8
    failed_good = 74 if contender is Contender.SIGNAL else 0
    return {
        "workflows": WORKFLOWS,
        "bad": bad,
        "completed": WORKFLOWS - bad - failed_good,
        "failed": bad + failed_good,
        "failed_good": failed_good,
        "failed_written": 0,
        "rows": WORKFLOWS - bad - failed_good,
        "duplicates": 0,
    }


def _idle(contender: Contender, _: str, chance: random.Random) -> dict[str, Any]:
    per_day = IDLE_ACTIONS[contender] * chance.uniform(0.98, 1.02)
    return {
        "seconds": 120.0,
        "actions": round(per_day / 720),
        "events": round(per_day / 900),
        "actions_per_day": per_day,
        "events_per_day": per_day * 0.8,
    }
