"""The contenders, one design a file, behind one interface."""

from write_batcher import ConfirmBy
from write_batcher.compare.contenders.design import Design
from write_batcher.compare.results import Contender

# Of `queue-paced`: transactions per second, and requests in each.
PACE, PACED_ITEMS = 20.0, 500
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
        case Contender.DIRECT_POOLED:
            from write_batcher.compare.contenders.direct_design import DirectDesign

            return DirectDesign(pooled=True)
        case Contender.SIGNAL:
            from write_batcher.compare.contenders.signal_design import SignalDesign

            return SignalDesign()
        case Contender.QUEUE:
            from write_batcher.compare.contenders.queue_design import QueueDesign

            return QueueDesign(ConfirmBy.SIGNAL)
        case Contender.QUEUE_COMPLETION:
            from write_batcher.compare.contenders.queue_design import QueueDesign

            return QueueDesign(ConfirmBy.COMPLETION)
        case Contender.QUEUE_PACED:
            from write_batcher.compare.contenders.queue_design import QueueDesign

            return QueueDesign(ConfirmBy.COMPLETION, pace=PACE, max_items=PACED_ITEMS)
