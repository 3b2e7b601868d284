"""Many Temporal workflows write to one database in batches, each with a durable outcome of its own."""

__version__ = "0.1.0"
