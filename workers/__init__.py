"""The two worker processes, and what they need to start: connections, logs, the plugin."""
