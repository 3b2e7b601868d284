"""Activities: those that callers wait for (enqueue, settle, business steps), and the drain."""
