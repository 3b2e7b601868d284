"""The work around a write: what an application does before and after, simulated."""

import asyncio
from dataclasses import dataclass

from temporalio import activity


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessStep:
    """Simulated work of some `seconds`."""

    name: str
    seconds: float


@activity.defn
async def do_business_step(step: BusinessStep) -> str:
    """Work for `step.seconds` and return what was done."""
    await asyncio.sleep(step.seconds)
    return f"{step.name} done"
