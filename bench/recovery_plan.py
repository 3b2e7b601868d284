"""What a benchmark of the recovery from a crash is to measure."""

from dataclasses import dataclass

HEARTBEATS_S = (5, 3)
"""Values of `heartbeat_timeout` in seconds: the default, and a shorter one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """How often who is killed."""

    rounds: int
    heartbeats_s: tuple[int, ...] = HEARTBEATS_S

    @property
    def measurements(self) -> int:
        return self.rounds * len(self.heartbeats_s) * 2
