"""What a soak breaks: worker processes, servers and networks. Each kind has its own track, so that faults overlap."""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from temporalio.service import RPCError

from tests.faults.fault_arena import Arena, Worker
from tests.support.proxy import Network, Proxy
from write_batcher.workers.embedded.server import Server

FAULT_EVERY_S = (5.0, 25.0)  # on each track
DOWN_S = (1.0, 8.0)
LONG_DOWN_S = (30.0, 90.0)  # beyond most of the product's limits
LONG_SHARE = 0.05
SLOW_S = 0.5  # added to each reply
SUPERVISE_EVERY_S = 1.0
CRASHING_SHARE = 1 / 3  # of the workers that replace dead ones
MAX_CRASH_TIMES = 30  # of a crash point: how often it is reached before it takes effect
WORKERS = Counter({"main": 1, "batcher": 2})  # of each queue
POINTS = {
    "main": ("before_append", "after_append"),
    "batcher": (
        "before_write",
        "before_commit",
        "after_commit",
        "mid_confirm",
        "before_ack",
        "after_ack",
        "before_dead",
    ),
}

# Takes a number from 0 to 1 that picks a process, and the seconds that the fault lasts.
Fault = Callable[[float, float], Awaitable[None]]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201


@dataclass
class Faults:
    """Random faults from `begin` to `end`, seconds on the monotonic clock.

    The seed decides which faults come and when.
    """

    arenas: Sequence[Arena]
    servers: Mapping[str, Server]
    proxies: Mapping[str, Sequence[Proxy]]
    """Those in front of each server, one for each queue."""
    seed: int
    begin: float
    end: float
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def quiet(self) -> bool:
        return time.monotonic() < self.begin

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    @property
    def live_workers(self) -> list[Worker]:
        return [worker for arena in self.arenas for worker in _live_workers(arena)]

    async def supervise(self) -> None:
        """Replace each worker that ended, as a service manager does, by one that may have a crash point."""
        chance = random.Random(f"{self.seed}/workers")
        noted: set[Path] = set()
        while True:
            for arena in self.arenas:
                for worker in arena.workers:
                    if not worker.alive and worker.log not in noted:
                        noted.add(worker.log)
                        self._note_end(worker)
                for role in (WORKERS - Counter(worker.role for worker in _live_workers(arena))).elements():
                    options: tuple[str, ...] = ()
                    if not self.quiet and not self.over and chance.random() < CRASHING_SHARE:
                        options = "--crash", f"{chance.choice(POINTS[role])}:{chance.randint(1, MAX_CRASH_TIMES)}"
                        self.counts[f"{role} worker with a crash point"] += 1
                    await arena.start_worker(role, *options)
            await asyncio.sleep(SUPERVISE_EVERY_S)

    def _note_end(self, worker: Worker) -> None:
        if worker.process.returncode not in (0, -SIGKILL):  # neither stopped nor killed, also by a crash point
            last_line = worker.log.read_text().strip().rpartition("\n")[2]
            say(f"a {worker.role} worker ended with status {worker.process.returncode}: {last_line}")
            self.counts[f"{worker.role} worker ended by itself"] += 1

    async def run(self) -> None:
        """Break things until the end. Returns when everything is up again."""
        await asyncio.sleep(max(self.begin - time.monotonic(), 0))
        say("from now on things break")
        processes: dict[str, Fault] = {
            "worker killed": self._kill_worker,
            "worker frozen": self._freeze_worker,
            "worker replaced": self._replace_worker,
            "batcher workflow terminated": self._terminate_batcher,
        }
        servers: dict[str, Fault] = {}
        for name, server in self.servers.items():
            servers |= {f"{name} killed": partial(_kill, server), f"{name} frozen": partial(_freeze_server, server)}
        networks: dict[str, Fault] = {}
        for name, proxies in self.proxies.items():
            networks |= {
                f"network to {name} {network.value}": partial(_disturb, proxies, network)
                for network in Network
                if network is not Network.UP
            }
            networks[f"network to {name} slow"] = partial(_slow_down, proxies)
        async with asyncio.TaskGroup() as group:
            for track, faults in (("processes", processes), ("servers", servers), ("networks", networks)):
                group.create_task(self._follow(track, faults))

    async def _follow(self, track: str, faults: Mapping[str, Fault]) -> None:
        chance = random.Random(f"{self.seed}/{track}")
        while not self.over:
            # Always draw every number: the next fault must not depend on how many workers are alive now.
            gap_s, name, pick = chance.uniform(*FAULT_EVERY_S), chance.choice(list(faults)), chance.random()
            seconds = chance.uniform(*(LONG_DOWN_S if chance.random() < LONG_SHARE else DOWN_S))
            await asyncio.sleep(gap_s)
            say(f"{name}, for {seconds:.0f} s if it lasts")
            self.counts[name] += 1
            await faults[name](pick, seconds)

    def _picked(self, pick: float) -> Worker | None:
        workers = self.live_workers
        return workers[int(pick * len(workers))] if workers else None

    async def _kill_worker(self, pick: float, _seconds: float) -> None:
        if worker := self._picked(pick):
            await worker.kill()

    async def _freeze_worker(self, pick: float, seconds: float) -> None:
        if worker := self._picked(pick):
            await _freeze(worker.process.pid, seconds)

    async def _replace_worker(self, pick: float, _seconds: float) -> None:
        if worker := self._picked(pick):
            [arena] = [arena for arena in self.arenas if worker in arena.workers]
            await arena.start_worker(worker.role)
            await worker.stop()

    async def _terminate_batcher(self, pick: float, _seconds: float) -> None:
        arena = self.arenas[int(pick * len(self.arenas))]
        with contextlib.suppress(RPCError):  # Temporal is down, or the workflow has not been started again yet
            await arena.client.get_workflow_handle(arena.batcher_workflow_id).terminate()


def _live_workers(arena: Arena) -> list[Worker]:
    return [worker for worker in arena.workers if worker.alive]


async def _kill(server: Server, _pick: float, seconds: float) -> None:
    await server.kill()
    await asyncio.sleep(seconds)
    await server.start()


async def _freeze_server(server: Server, _pick: float, seconds: float) -> None:
    await _freeze(server.pid, seconds)


async def _freeze(pid: int, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):  # a crash point was faster
        os.kill(pid, SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(pid, SIGCONT)


async def _disturb(proxies: Sequence[Proxy], network: Network, _pick: float, seconds: float) -> None:
    for proxy in proxies:
        proxy.become(network)
    await asyncio.sleep(seconds)
    for proxy in proxies:
        proxy.become(Network.UP)


async def _slow_down(proxies: Sequence[Proxy], _pick: float, seconds: float) -> None:
    for proxy in proxies:
        proxy.delay_s = SLOW_S
    await asyncio.sleep(seconds)
    for proxy in proxies:
        proxy.delay_s = 0.0
