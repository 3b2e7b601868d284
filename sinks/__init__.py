"""What a batch is written to."""
