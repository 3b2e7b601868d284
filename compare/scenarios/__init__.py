"""The scenarios, one a file, and the settings that each of them changes for all contenders."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from write_batcher import Settings
from write_batcher.compare.arena import Arena
from write_batcher.compare.resource_usage import Baseline
from write_batcher.compare.results import Scenario
from write_batcher.compare.scale import Scale
from write_batcher.compare.scenarios import ceiling, crash, growth, idle, load, poison, pressure
from write_batcher.compare.scenarios.idle import LOOKS_A_DAY
from write_batcher.compare.scenarios.measurement import Measurement

MIN_CRASH_BATCHES = 10  # so that the writer can be killed in the middle of them
IDLE_PARK_AFTER = timedelta(seconds=1)
POISON_CONFIRM_TIMEOUT = timedelta(seconds=15)  # a bad record stays bad: the usual two minutes would show no more

MEASURE_OF: dict[Scenario, Callable[[Arena, Scale, Baseline], Coroutine[Any, Any, Measurement]]] = {
    Scenario.PRESSURE: pressure.measure,
    Scenario.LOAD: load.measure,
    Scenario.GROWTH: growth.measure,
    Scenario.CEILING: ceiling.measure,
    Scenario.CRASH: crash.measure,
    Scenario.POISON: poison.measure,
    Scenario.IDLE: idle.measure,
}


def settings_of(scenario: Scenario, settings: Settings, scale: Scale) -> Settings:
    """Return the settings of a scenario, the same for all contenders."""
    match scenario:
        case Scenario.CRASH:
            max_items = max(min(settings.max_items, scale.workflows // MIN_CRASH_BATCHES), 1)
            return settings.model_copy(update={"max_items": max_items})
        case Scenario.IDLE:
            # The day of a parked drain within the time that is measured.
            return settings.model_copy(update={"park_after": IDLE_PARK_AFTER, "parked_for": scale.idle / LOOKS_A_DAY})
        case Scenario.POISON:
            return settings.model_copy(update={"confirm_timeout": POISON_CONFIRM_TIMEOUT})
        case _:
            return settings
