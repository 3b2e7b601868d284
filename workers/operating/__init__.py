"""What operators do with a queue, apart from the terminal: monitor it, control it, decide on dead letters."""
