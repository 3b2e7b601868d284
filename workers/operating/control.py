"""Pausing, resuming, flushing and stopping the batcher of a partition, and waiting until that has taken effect."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.errors import OperationFailed
from write_batcher.models import PartitionRef
from write_batcher.workers.operating.host import RPC_TIMEOUT, Hosts, HostState, HostView, temporal_failure
from write_batcher.workflows.batcher import batcher_workflow_id

# The drain hears of it with its next heartbeat, after up to 8 s, and then finishes what is in flight.
EFFECT_WITHIN = timedelta(seconds=30)
LOOK_EVERY = timedelta(milliseconds=200)


class Verb(StrEnum):
    """What can be done to a batcher; each is a signal of BatcherWorkflow."""

    PAUSE = "pause"
    RESUME = "resume"
    FLUSH = "flush"
    STOP = "stop"


async def steer(client: Client, partition: PartitionRef, verb: Verb) -> str:
    """Send `verb` to the batcher of `partition`, and return its new state in a few words.

    Returns when `verb` has taken effect, after a flush as soon as it is requested. Raises `OperationFailed` when no
    batcher workflow is running, when Temporal does not answer, and when there is no effect within 30 seconds; the
    signal is kept, so it may still take effect.
    """
    workflow = client.get_workflow_handle(batcher_workflow_id(partition))
    try:
        await workflow.signal(verb.value, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise OperationFailed(
                f"Partition {partition} has no running batcher workflow: start one with `write-batcher worker batcher`."
            ) from error
        raise temporal_failure(error) from error
    hosts = Hosts(client)
    match verb:
        case Verb.PAUSE:
            await _until(hosts, partition, verb, lambda host: host.state is HostState.PAUSED)
            return "paused"
        case Verb.RESUME:
            await _until(hosts, partition, verb, lambda host: host.state in (HostState.RUNNING, HostState.HELD))
            return "running"
        case Verb.STOP:
            await _until(hosts, partition, verb, lambda host: host.state is HostState.NOT_RUNNING)
            return "stopped until a batcher worker starts again"
        case Verb.FLUSH:
            return "flush requested"


async def _until(hosts: Hosts, partition: PartitionRef, verb: Verb, took_effect: Callable[[HostView], bool]) -> None:
    # Polls: Temporal does not notify anybody of a workflow's state.
    give_up = asyncio.get_running_loop().time() + EFFECT_WITHIN.total_seconds()
    while not took_effect(host := await hosts.look(partition)):
        if host.state is HostState.NOT_RUNNING:
            raise OperationFailed(
                f"Partition {partition} was sent `{verb.value}`, but its batcher workflow is "
                f"{host.closed_as or 'gone'} now: start a batcher worker."
            )
        if asyncio.get_running_loop().time() > give_up:
            raise OperationFailed(
                f"Partition {partition} was sent `{verb.value}`, which has had no effect within "
                f"{EFFECT_WITHIN.total_seconds():g}s: its batcher is {host.state.value}. {_advice(host)}"
            )
        await asyncio.sleep(LOOK_EVERY.total_seconds())


def _advice(host: HostView) -> str:
    if host.last_failure:
        return f"Its drain keeps failing, last with: {host.last_failure.rstrip('.')}."
    match host.state:
        case HostState.STOPPING:
            return "Its drain is finishing what is in flight: check again with `write-batcher queue status`."
        case HostState.WAITING | HostState.RUNNING:
            return "Check that a batcher worker is running: the signal is kept until then."
        case HostState.HELD:
            return "Its drain is paused in Temporal: unpause that activity first."
        case HostState.PAUSED | HostState.NOT_RUNNING:
            return "Check again with `write-batcher queue status`."
