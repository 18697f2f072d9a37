"""Order among flags: who holds which units, which flags should be gone, and what is left to do before one is. Nothing here changes a flag."""
