"""Priors learnt from past experiments, and how good they are."""
