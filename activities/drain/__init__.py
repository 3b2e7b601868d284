"""The drain of a partition: take, write, confirm, one file a stage, and what they share."""
