"""What batches are written to."""
