"""Workflows: what a caller uses to write (BatchedWrites), the example caller, and the host of a drain."""
