"""What the demo, the tests and the comparison run: servers, worker processes, many callers."""
