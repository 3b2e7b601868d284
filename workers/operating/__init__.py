"""What operators do with a queue, without a terminal: watch, control, move it, decide on held requests and dead letters."""
