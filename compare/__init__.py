"""Other designs for the same task, and what their comparison needs."""
