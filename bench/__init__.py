"""Measures this library against the least code that could do the same work, in one run on one machine."""
