"""Posteriors as charts: each a pure function from values to a `Figure` with a table twin."""

from expnb.charts.effect import effect
from expnb.charts.figure import Figure

__all__ = ["Figure", "effect"]
