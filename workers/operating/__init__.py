"""What operators do with a queue, without a terminal: monitor, control and move it, decide on held and dead requests."""
