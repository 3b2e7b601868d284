"""The older design: a batcher workflow that collects write requests from signals."""
