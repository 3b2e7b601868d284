"""The drain of a partition: read, take, write, confirm, one file per stage, and what the stages share."""
