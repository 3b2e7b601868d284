"""Pausing, resuming, flushing and stopping the batcher of a partition, and waiting until that has taken effect."""

import asyncio
from datetime import timedelta
from enum import StrEnum

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.errors import OperationFailed
from write_batcher.models import PartitionRef
from write_batcher.workers.operating.host import RPC_TIMEOUT, Hosts, HostState, HostView, temporal_failure
from write_batcher.workflows.batcher import batcher_workflow_id

# The drain hears of it with its next heartbeat, after up to 80 % of its heartbeat timeout (4 s; 24 s with the longest
# one), and then finishes what is in flight.
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

    Returns when `verb` has taken effect; a flush, when a drain that runs has been asked for it. A resume also undoes a
    pause of the drain by Temporal's own command. Raises `OperationFailed` when no batcher workflow is running, when
    Temporal does not answer or refuses, and when there is no effect within 30 seconds; the signal is kept, so it may
    still take effect.
    """
    workflow = client.get_workflow_handle(batcher_workflow_id(partition))
    try:
        await workflow.signal(verb.value, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise OperationFailed(
                f"Partition {partition} has no running batcher workflow: start one with "
                f"`write-batcher worker batcher --queue {partition.queue}`."
            ) from error
        raise temporal_failure(error) from error
    hosts = Hosts(client)
    match verb:
        case Verb.PAUSE:
            await _until(hosts, partition, verb, HostState.PAUSED)
            return "paused"
        case Verb.RESUME:
            await _until(hosts, partition, verb, HostState.RUNNING)
            return "running"
        case Verb.STOP:
            await _until(hosts, partition, verb, HostState.NOT_RUNNING)
            return "stopped until a batcher worker starts again"
        case Verb.FLUSH:
            await _until(hosts, partition, verb, HostState.RUNNING)
            return "flush requested"


async def _until(hosts: Hosts, partition: PartitionRef, verb: Verb, wanted: HostState) -> None:
    # Polls: Temporal does not notify anybody of a workflow's state.
    give_up = asyncio.get_running_loop().time() + EFFECT_WITHIN.total_seconds()
    while (host := await hosts.look(partition)).state is not wanted:
        if host.state is HostState.NOT_RUNNING:
            raise OperationFailed(
                f"Partition {partition} was sent `{verb.value}`, but its batcher workflow is "
                f"{host.closed_as or 'gone'} now: start a batcher worker."
            )
        if asyncio.get_running_loop().time() > give_up:
            raise OperationFailed(
                f"Partition {partition} was sent `{verb.value}`, which has had no effect within "
                f"{EFFECT_WITHIN.total_seconds():g}s: its batcher is {host.state.value}. {advice(partition, host)}"
            )
        if verb is Verb.RESUME and host.state is HostState.PAUSED_IN_TEMPORAL:
            await hosts.unpause_drain(partition, host)
        await asyncio.sleep(LOOK_EVERY.total_seconds())


def advice(partition: PartitionRef, host: HostView) -> str:
    """Return a sentence on what an operator can do about a batcher that does not do what it was told."""
    if host.last_failure:
        return (
            f"Its drain has failed, last with: {host.last_failure.rstrip('.')}. Check that a batcher worker is "
            "running, and what it logs: it is kept until then."
        )
    resume = f"`write-batcher queue resume --queue {partition.queue}`"
    match host.state:
        case HostState.STOPPING:
            return (
                "Its drain is finishing what is in flight: check again with "
                f"`write-batcher queue status --queue {partition.queue}`."
            )
        case HostState.WAITING | HostState.RUNNING | HostState.PARKED:
            return "Check that a batcher worker is running: it is kept until then."
        case HostState.PAUSED_IN_TEMPORAL | HostState.PAUSED:
            return f"Continue with {resume}: it is kept until then."
        case HostState.NOT_RUNNING:
            return f"Start one with `write-batcher worker batcher --queue {partition.queue}`: it is kept until then."
