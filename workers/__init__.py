"""Worker processes, and the embedded servers for demo and tests."""
