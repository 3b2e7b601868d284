"""Workflows: BatchedWrites for callers, an example caller, and the host of a drain."""
