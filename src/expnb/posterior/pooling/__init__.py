"""Effects by segment that borrow from each other."""
