"""Writes are offered at a steady rate that grows step by step, whether the earlier ones are done or not."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from write_batcher.compare.arena import Arena
from write_batcher.compare.committed_rows import CommittedRows
from write_batcher.compare.contenders.design import Order, Push, PushRefused
from write_batcher.compare.quantiles import quantile
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios.measurement import Measurement, per
from write_batcher.compare.target_load import TargetLoad, target_load
from write_batcher.workers.embedded import processes

TICK_S = 0.01
LOOK_EVERY_S = 0.05
SETTLE_S = 6.0  # after a step, for what was offered in it
COLLAPSED_SHARE = 0.5  # of what was offered: a design that commits less in time is not put under more pressure
BUSY_RATE = 1_000  # writes per second, at which designs are compared
HOLDS_P99_MS = 1_000.0
HOLDS_SHARE = 0.99


@dataclass(slots=True)
class Bystander:
    """Another application on the same database, in a process of its own."""

    done: list[dict[str, Any]] = field(default_factory=list)

    def between(self, start: float, end: float) -> list[dict[str, Any]]:
        return [one for one in self.done if start <= one["at"] <= end]


@dataclass(slots=True, kw_only=True)
class Offered:
    """What was offered in one step."""

    rate: int
    offered_at: dict[str, float] = field(default_factory=dict)
    """By workflow id."""
    committed_at: dict[str, float] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    began: float = 0.0
    ended: float = 0.0


async def measure(arena: Arena, scale: Scale, _baseline: Baseline) -> Measurement:
    """Measure the figures of `Scenario.PRESSURE`."""
    steps: list[dict[str, Any]] = []
    notes: list[str] = []
    arena.progress.expect(len(scale.pressure_rates))
    async with (
        arena.rows() as rows,
        bystander(arena.settings.database_url) as other,
        arena.design.producer(arena.client, arena.settings) as push,
    ):
        await _until_it_works(other)
        accepted = 0
        for rate in scale.pressure_rates:
            async with CommittedRows(arena.settings.database_url) as committed, target_load(arena) as load:
                offered = await _offer(arena, push, rate, scale.pressure_step_s, committed)
            steps.append(_step(offered, other, load))
            accepted += len(offered.offered_at) - offered.errors.total()
            arena.progress.advance()
            if steps[-1]["committed"] < COLLAPSED_SHARE * len(offered.offered_at):
                notes.append(
                    f"at {rate:,} writes/s most writes were not committed within {SETTLE_S:g} s: not put under more"
                )
                break
        by_workflow = await rows.by_workflow()
    holds = [step["offered_per_s"] for step in steps if step["holds"]]
    busy = next((step for step in steps if step["offered_per_s"] == BUSY_RATE), {})
    bystander_p99 = [step["bystander_p99_ms"] for step in steps if step["bystander_p99_ms"] is not None]
    return Measurement(
        figures={
            "holds_up_to_per_s": max(holds, default=0),
            "quiet_p50_ms": steps[0]["p50_ms"],
            "busy_p99_ms": busy.get("p99_ms"),
            "bystander_busy_p99_ms": busy.get("bystander_p99_ms"),
            "bystander_worst_p99_ms": max(bystander_p99, default=None),
            "errors": sum(step["errors"] for step in steps),
            "duplicates": by_workflow.total() - len(by_workflow),
        },
        samples={"steps": steps},
        notes=notes,
    )


async def _offer(arena: Arena, push: Push, rate: int, seconds: float, committed: CommittedRows) -> Offered:
    """Offer so many writes per second, and wait until all are committed, or `SETTLE_S` for the last."""
    offered = Offered(rate=rate, began=time.monotonic())
    waiting: set[asyncio.Task[None]] = set()
    at_once = arena.design.pushes_at_once
    number = 0
    while (elapsed := time.monotonic() - offered.began) < seconds:
        due = [_order(arena, rate, n) for n in range(number, int(elapsed * rate) + 1)]
        number += len(due)
        for first in range(0, len(due), at_once):
            task = asyncio.create_task(_push(push, due[first : first + at_once], offered))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.sleep(TICK_S)
    offered.ended = time.monotonic()
    give_up = offered.ended + SETTLE_S
    if waiting:
        await asyncio.wait(set(waiting), timeout=SETTLE_S)
    if not arena.design.commits_when_pushed:
        expected = len(offered.offered_at) - offered.errors.total()
        while _seen(offered, committed) < expected and time.monotonic() < give_up:  # noqa: ASYNC110 - it polls anyway
            await asyncio.sleep(LOOK_EVERY_S)
        offered.committed_at = {one: committed.seen_at[one] for one in offered.offered_at if one in committed.seen_at}
    offered.errors["not done in time"] += len(waiting)
    for task in list(waiting):
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return offered


def _seen(offered: Offered, committed: CommittedRows) -> int:
    return len(offered.offered_at.keys() & committed.seen_at.keys())


def _order(arena: Arena, rate: int, number: int) -> Order:
    return Order(workflow_id=f"{arena.series}{rate}-{number}", item="pressure", cents=number % 1_000)


async def _push(push: Push, orders: list[Order], offered: Offered) -> None:
    now = time.monotonic()
    offered.offered_at |= {order.workflow_id: now for order in orders}
    try:
        await push(*orders)
    except PushRefused as error:
        offered.errors[error.kind] += len(orders)
        return
    now = time.monotonic()
    offered.committed_at |= {order.workflow_id: now for order in orders}


def _step(offered: Offered, other: Bystander, load: TargetLoad) -> dict[str, Any]:
    committed = offered.committed_at.keys() & offered.offered_at.keys()
    # What is not committed has waited until now at least: else a design that commits hardly anything would look quick.
    now = time.monotonic()
    waits = sorted((offered.committed_at.get(one, now) - at) * 1000 for one, at in offered.offered_at.items())
    last = max(offered.committed_at.values(), default=offered.ended)
    bystanders = other.between(offered.began, max(last, offered.ended))
    bystander_ms = sorted(one["ms"] for one in bystanders)
    p99 = _quantile_ms(waits, 0.99)
    seconds = max(last - offered.began, offered.ended - offered.began)
    return {
        "offered_per_s": offered.rate,
        "offered": len(offered.offered_at),
        "committed": len(committed),
        "achieved_per_s": round(len(committed) / seconds, 1),
        "p50_ms": _quantile_ms(waits, 0.5),
        "p99_ms": p99,
        "holds": len(committed) >= HOLDS_SHARE * len(offered.offered_at) and p99 is not None and p99 < HOLDS_P99_MS,
        "errors": offered.errors.total(),
        "errors_by_kind": {kind: number for kind, number in offered.errors.most_common() if number},
        "bystander_p50_ms": _quantile_ms(bystander_ms, 0.5),
        "bystander_p99_ms": _quantile_ms(bystander_ms, 0.99),
        "bystander_failed": sum(one["failed"] for one in bystanders),
        "connections": load.connections,
        "transactions": load.transactions,
        "database_cpu_ms_per_write": per(None if load.cpu_s is None else load.cpu_s * 1000, len(committed)),
        "wal_bytes_per_write": per(load.wal_bytes, len(committed)),
    }


def _quantile_ms(ordered: list[float], share: float) -> float | None:
    return round(quantile(ordered, share), 2) if ordered else None


@asynccontextmanager
async def bystander(database_url: str) -> AsyncIterator[Bystander]:
    """Run another application on the database in a process of its own."""
    found = Bystander()
    command = [sys.executable, "-m", "write_batcher.compare.bystander", database_url]
    process = await processes.spawn(command, log=None)
    reading = asyncio.create_task(_read(process, found))
    try:
        yield found
    finally:
        await processes.kill(process)
        await asyncio.wait({reading})


async def _read(process: asyncio.subprocess.Process, found: Bystander) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe
    while line := await process.stdout.readline():
        found.done.append(json.loads(line))


async def _until_it_works(other: Bystander) -> None:
    async with asyncio.timeout(30):
        while len(other.done) < 20:  # noqa: ASYNC110 - half a second
            await asyncio.sleep(TICK_S)
