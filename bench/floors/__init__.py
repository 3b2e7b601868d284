"""The least code that drains a stream into a table: no ledger, no checks, no receipts, no recovery."""
