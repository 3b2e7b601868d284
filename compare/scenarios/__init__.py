"""The scenarios, each in a file of its own, and what each needs of the settings that all contenders share."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from write_batcher import Settings
from write_batcher.compare.arena import Arena
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.results import Scenario
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios import ceiling, crash, growth, idle, load, poison
from write_batcher.compare.scenarios.measurement import Measured

CRASH_BATCHES = 10
"""At least so many in `crash`, so that the writer can be killed in the midst of them."""

POISON_CONFIRM_TIMEOUT = timedelta(seconds=15)
"""Nobody needs two minutes to find out that a bad record will not become good."""

MEASURES: dict[Scenario, Callable[[Arena, Scale, Baseline], Coroutine[Any, Any, Measured]]] = {
    Scenario.LOAD: load.measure,
    Scenario.GROWTH: growth.measure,
    Scenario.CEILING: ceiling.measure,
    Scenario.CRASH: crash.measure,
    Scenario.POISON: poison.measure,
    Scenario.IDLE: idle.measure,
}


def settings_of(scenario: Scenario, settings: Settings, scale: Scale) -> Settings:
    """The same for all contenders."""
    match scenario:
        case Scenario.CRASH:
            max_items = max(min(settings.max_items, scale.workflows // CRASH_BATCHES), 1)
            return settings.model_copy(update={"max_items": max_items})
        case Scenario.POISON:
            return settings.model_copy(update={"confirm_timeout": POISON_CONFIRM_TIMEOUT})
        case _:
            return settings
