"""The command `write-batcher`: one file per command group, with what it shows beside it."""
