"""Servers, worker processes and callers on this machine, for the demo, the comparison and tests."""
