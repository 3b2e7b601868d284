"""Steers the batcher workflow of a partition, and waits until that took effect."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.errors import OperationFailed
from write_batcher.models import PartitionRef
from write_batcher.workers.operating.host import RPC_TIMEOUT, Hosts, HostState, HostView, temporal_failed
from write_batcher.workflows.batcher import batcher_workflow_id

# The drain learns of it with its next heartbeat, after up to 8 s, and then finishes what is in flight.
EFFECT_WITHIN = timedelta(seconds=30)
LOOK_EVERY = timedelta(milliseconds=200)


class Verb(StrEnum):
    """Each is a signal of BatcherWorkflow."""

    PAUSE = "pause"
    RESUME = "resume"
    FLUSH = "flush"
    STOP = "stop"


async def steer(client: Client, partition: PartitionRef, verb: Verb) -> str:
    """Tell the batcher of `partition`; returns what is the case then, in a few words.

    Raises OperationFailed when there is no batcher, or when what was asked for is not the case within EFFECT_WITHIN; it
    may still become so.
    """
    workflow = client.get_workflow_handle(batcher_workflow_id(partition))
    try:
        await workflow.signal(verb.value, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise OperationFailed(
                f"{partition}: no batcher workflow is running; start one with `write-batcher worker batcher`"
            ) from error
        raise temporal_failed(error) from error
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
            return "stopped, until a batcher worker starts again"
        case Verb.FLUSH:
            return "told to flush"


async def _until(hosts: Hosts, partition: PartitionRef, verb: Verb, took_effect: Callable[[HostView], bool]) -> None:
    """Temporal tells nobody when a workflow changes its state, so it is asked again and again."""
    give_up = asyncio.get_running_loop().time() + EFFECT_WITHIN.total_seconds()
    while not took_effect(host := await hosts.look(partition)):
        if host.state is HostState.NOT_RUNNING:
            raise OperationFailed(
                f"{partition}: {verb.value} has been sent, but its workflow is {host.closed_as or 'gone'} now; "
                "start a batcher worker"
            )
        if asyncio.get_running_loop().time() > give_up:
            raise OperationFailed(
                f"{partition}: {verb.value} has been sent but has had no effect within "
                f"{EFFECT_WITHIN.total_seconds():g}s; the batcher is {host.state.value}: {_cure(host)}"
            )
        await asyncio.sleep(LOOK_EVERY.total_seconds())


def _cure(host: HostView) -> str:
    if host.last_failure:
        return f"its drain fails, at last with: {host.last_failure}"
    match host.state:
        case HostState.STOPPING:
            return "its drain finishes what is in flight; look again with `write-batcher queue status`"
        case HostState.WAITING | HostState.RUNNING:
            return "is a batcher worker alive? The signal is kept until one is"
        case HostState.HELD:
            return "its drain is paused in Temporal; unpause that activity first"
        case HostState.PAUSED | HostState.NOT_RUNNING:
            return "look again with `write-batcher queue status`"
