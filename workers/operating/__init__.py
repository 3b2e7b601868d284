"""What operators do to a queue, without a terminal: look, steer, decide on dead letters."""
