"""The contenders, one design a file, behind one interface."""

from write_batcher import ConfirmBy
from write_batcher.compare.contenders.design import Design
from write_batcher.compare.results import Contender

BASELINE = "baseline"  # not a contender: the same callers without a write


def design_of(name: str) -> Design:
    """Return the design of a contender, or of `BASELINE`. Raises `ValueError` for any other name."""
    # Imported one at a time: the CPU time of a process must not include the imports of other contenders.
    if name == BASELINE:
        from write_batcher.compare.contenders.direct_design import BaselineDesign

        return BaselineDesign()
    match Contender(name):
        case Contender.DIRECT:
            from write_batcher.compare.contenders.direct_design import DirectDesign

            return DirectDesign()
        case Contender.SIGNAL:
            from write_batcher.compare.contenders.signal_design import SignalDesign

            return SignalDesign()
        case Contender.QUEUE:
            from write_batcher.compare.contenders.queue_design import QueueDesign

            return QueueDesign(ConfirmBy.SIGNAL)
        case Contender.QUEUE_COMPLETION:
            from write_batcher.compare.contenders.queue_design import QueueDesign

            return QueueDesign(ConfirmBy.COMPLETION)
