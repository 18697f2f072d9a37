"""From numbers to one decision and one plan; pure functions."""
