"""The default sink: SQL databases, exactly once through a write ledger."""
