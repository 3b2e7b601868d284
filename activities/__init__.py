"""Activities: the caller side (enqueue, business) and the batcher side (drain)."""
