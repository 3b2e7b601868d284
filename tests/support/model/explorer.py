"""Breadth-first search through every state that a protocol can reach, for one that breaks a promise."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """One thing that happens, and the state after it."""

    action: str
    state: S


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """What a search found."""

    states: int
    violation: str | None
    trace: tuple[str, ...]
    """The actions that lead to the violation; no shorter way leads to one."""

    def __str__(self) -> str:
        if self.violation is None:
            return f"no violation in {self.states} states"
        steps = "\n".join(f"  {number:2}. {action}" for number, action in enumerate(self.trace, 1))
        return f"{self.violation}, found after {self.states} states:\n{steps}"


def explore(
    initial: S,
    successors: Callable[[S], Iterable[Step[S]]],
    violation: Callable[[S], str | None],
    *,
    most_states: int = 400_000,
) -> Exploration:
    """Visit every state that `successors` leads to from `initial`, until `violation` says what one of them breaks.

    Raises `OverflowError` above `most_states` states: a scenario that large belongs split.
    """
    came_from: dict[S, tuple[S, str] | None] = {initial: None}
    unvisited = deque([initial])
    while unvisited:
        state = unvisited.popleft()
        for step in successors(state):
            if step.state in came_from:
                continue
            came_from[step.state] = state, step.action
            if broken := violation(step.state):
                trace = _way_to(step.state, came_from)
                return Exploration(states=len(came_from), violation=broken, trace=trace)
            if len(came_from) > most_states:
                raise OverflowError(f"More than {most_states} states: give the scenario fewer faults or callers.")
            unvisited.append(step.state)
    return Exploration(states=len(came_from), violation=None, trace=())


def _way_to(state: S, came_from: dict[S, tuple[S, str] | None]) -> tuple[str, ...]:
    actions: list[str] = []
    while (before := came_from[state]) is not None:
        state, action = before
        actions.append(action)
    return tuple(reversed(actions))
