"""Quantiles of what was measured, for scenarios and report alike."""

import math
from collections.abc import Sequence


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile by nearest rank, which is a measured value. `ordered` is ascending and not empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
