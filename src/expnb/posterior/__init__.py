"""Posteriors of effects: exact engine, summaries, priors."""
