"""What the drains of a queue tell each other about their target."""

from enum import StrEnum


class TargetState(StrEnum):
    """The latest that is known of a target that has been away; each holds for a while only."""

    AWAY = "away"
    """A try has just failed."""
    PROBING = "probing"
    """A drain tries whether it is back."""
    BACK = "back"
    """A try has succeeded."""
