"""What operators do with a queue, without a terminal: watch it, control it, decide on held and dead requests."""
