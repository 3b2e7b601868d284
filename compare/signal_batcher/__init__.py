"""The older design: a batcher workflow that is fed by signals."""
