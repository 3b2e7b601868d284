"""The drain of a partition: take, write, confirm, one file per stage, and what the stages share."""
