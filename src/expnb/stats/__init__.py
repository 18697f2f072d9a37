"""Additive statistics of cohorts and the checks on them: NumPy and the standard library only."""
