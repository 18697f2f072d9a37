"""Benchmarks: `python -m bench` writes results.json, from which every number in the docs comes."""
