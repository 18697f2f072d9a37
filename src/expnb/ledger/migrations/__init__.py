"""The schema of the ledger, step by step. Entries are never rewritten."""
