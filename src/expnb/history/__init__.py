"""What was decided and done, told from the ledger: replays, reviews, incidents. Nothing here changes a flag or the ledger."""
